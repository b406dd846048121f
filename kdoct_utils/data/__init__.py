"""From files to patients: readers, clean frames, the scan table, patient splits, audits of leaks and shortcuts.

May import judge, phantom and the ground (runs, datasets, profiles); knows nothing of networks.
"""
