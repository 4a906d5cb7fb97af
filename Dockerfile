# The package in a ROS 2 Jazzy workspace, /ws. Use it with --shm-size 1g: Fast DDS passes images through
# shared memory.
FROM ros:jazzy-ros-base
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
WORKDIR /ws

# what rosdep knows; package.xml alone, so that a change of code keeps this layer
COPY package.xml src/mmsam_ros/
RUN apt-get update \
    && apt-get install --yes --no-install-recommends make python3-pip python3-venv \
    && rosdep update --rosdistro jazzy \
    && rosdep install --from-paths src --ignore-src --rosdistro jazzy --default-yes \
    && rm -rf /var/lib/apt/lists/*

# what rosdep does not know; cv_bridge is built against numpy 1
COPY constraints.txt src/mmsam_ros/
RUN python3 -m venv --system-site-packages venv && touch venv/COLCON_IGNORE \
    && venv/bin/pip install --no-cache-dir --constraint src/mmsam_ros/constraints.txt \
        torch torchvision timm safetensors rosbags mcap lz4 "numpy<2" setuptools \
        lightning torchmetrics tensorboard embreex

# the venv's Python first: the executables get the Python that builds them
ENV VIRTUAL_ENV=/ws/venv PATH=/ws/venv/bin:$PATH
COPY . src/mmsam_ros/
RUN set +u && source /opt/ros/jazzy/setup.bash \
    && python -m colcon build --packages-select mmsam_ros

# ros2 launch ends its processes on SIGINT, not on SIGTERM
STOPSIGNAL SIGINT
ENTRYPOINT ["/bin/bash", "-c", "source /ws/install/setup.bash && exec \"$@\"", "--"]
CMD ["ros2", "launch", "mmsam_ros", "segment.launch.py"]
