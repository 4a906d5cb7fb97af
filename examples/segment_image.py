# SPDX-License-Identifier: Apache-2.0
"""Segment an image from Python, with the weights that come with the package.

python examples/segment_image.py street.jpg overlay.png
"""

import sys

import cv2
import numpy as np

from mmsam_ros.inference import Segmenter
from mmsam_ros.inference.draw import overlay
from mmsam_ros.sensors import Frame, palette
from mmsam_ros.weights import default_weights

source, target = sys.argv[1:]
bgr = cv2.imread(source)
if bgr is None:
    sys.exit(f"{source}: not an image")
rgb = np.asarray(bgr[..., ::-1], np.uint8, order="C")

segmenter = Segmenter.load(default_weights())
labels = segmenter(Frame(rgb, {})).labels  # (height, width), class ids; {}: no other sensors
classes = segmenter.spec.classes
for info in classes:
    print(f"{info.name}: {(labels == info.id).mean():.1%}")
if not cv2.imwrite(target, overlay(rgb, labels, palette(classes))[..., ::-1]):
    sys.exit(f"{target}: cannot be written")
