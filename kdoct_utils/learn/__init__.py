"""How a network learns: losses, objectives, augmentation, models, the training loop, inference, start weights.

May import phantom and the ground (runs, profiles); knows nothing of datasets on disk.
"""
