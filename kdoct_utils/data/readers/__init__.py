"""One reader for each dataset's layout on disk; ``scans.read_scans`` makes the scan table from what they find.

A reader lists every scan with its own label and the patient's class, and says what it refused and why. It guesses
nothing: a label that it does not know is an error, never a class.
"""
