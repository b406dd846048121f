"""What readers see: one style, the figures, sliders and text outputs of the notebooks.

May import learn, data, judge, phantom and the ground; computes nothing that a result depends on.
"""
