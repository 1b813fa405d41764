"""How good a profile is: text and tokens, the teacher, the divergence and the evaluator that the search calls."""
