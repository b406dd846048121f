"""How good, and how sure: metrics, intervals over patients, published numbers, signs of trouble.

May import the ground only; neither torch nor pictures are needed to judge.
"""
