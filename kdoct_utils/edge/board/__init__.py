"""The programs of a bundle: they lie beside a model where there is numpy, pillow and onnxruntime alone."""
