# SPDX-License-Identifier: Apache-2.0
"""Build description of the ament_python package, and the one list of its Python dependencies.

ROS packages stand in package.xml alone. `test/house/test_dependencies.py` holds both against what
the code imports.
"""

from glob import glob

from setuptools import find_packages, setup

PACKAGE = "mmsam_ros"
ASSETS = ("models", "rviz", "foxglove")
EXPERIMENTS = sorted(p.rstrip("/") for p in glob("config/experiments/**/", recursive=True))

setup(
    name=PACKAGE,
    version="0.1.0",
    description="Camera, LiDAR and thermal in, labelled masks out, as a ROS 2 node.",
    license="Apache-2.0",
    maintainer="The mmsam_ros maintainers",
    maintainer_email="maintainers@mmsam-ros.example",
    packages=find_packages(include=[PACKAGE, f"{PACKAGE}.*"]),
    package_data={PACKAGE: ["py.typed", "training/report.html.j2"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (f"share/{PACKAGE}", ["package.xml"]),
        (f"share/{PACKAGE}/launch", sorted(glob("launch/*.launch.py"))),
        *(
            (f"share/{PACKAGE}/{folder}", sorted(glob(f"{folder}/*.*")))
            for folder in ("config", "config/train", *EXPERIMENTS)
        ),
        *((f"share/{PACKAGE}/{name}", sorted(glob(f"{name}/*.*"))) for name in ASSETS),
    ],
    python_requires=">=3.11",
    install_requires=[
        "setuptools",
        # node, weights, bags
        "lz4",
        "mcap",
        "numpy",
        "opencv-python-headless",
        "PyYAML",
        "rich",
        "rosbags",
        "safetensors",
        "timm",
        "torch",
        "torchvision",
    ],
    extras_require={
        "train": [
            "h5py",
            "Jinja2",
            "Pillow",
            "lightning",
            "tensorboard",
            "torchmetrics",
        ],
        "synth": ["embreex"],
        "onnx": ["onnx", "onnxruntime", "onnxscript"],
        # colcon looks for pytest here, and runs no test where it is missing
        "test": ["hypothesis", "pytest", "segment-anything"],
        "view": ["rerun-sdk"],
        "docs": ["mkdocs", "mkdocs-material", "mkdocstrings[python]"],
    },
    zip_safe=True,
    entry_points={
        "console_scripts": [
            "segment = mmsam_ros.ros.main:main",
            "segment_multi = mmsam_ros.ros.multi:main",
            "replay = mmsam_ros.ros.replay:main",
            "mmsam = mmsam_ros.cli.main:main",
        ],
    },
)
