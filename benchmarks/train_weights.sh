#!/usr/bin/env bash
# Makes the weights that come with the package. Run again, it goes on where it was interrupted.
#
#   benchmarks/train_weights.sh             models/tiny_synthetic.safetensors: renders worlds,
#       pretrains the RGB part on some of them, trains with all sensors on others, then on other
#       rigs, scores. About four hours on two cores.
#   benchmarks/train_weights.sh REAL_ROADS  models/tiny_road.safetensors: RGB alone on real and
#       rendered streets, from tiny_synthetic's, then LiDAR and thermal beside it. REAL_ROADS is what
#       examples/real_roads.py reads.
set -euo pipefail
cd "$(dirname "$0")/.."
mmsam=.venv/bin/mmsam python=.venv/bin/python

render() { # FOLDER, and options of mmsam synth folder
    [ -f "$1/meta.json" ] || { rm -rf "$1" && "$mmsam" synth folder "$@"; }
}
train() { # CONFIGURATION RUN, and other options
    if [ -f "$2/config.yaml" ]; then "$mmsam" train --resume "$2"
    else "$mmsam" train --config "$1" --out "$2" "${@:3}"; fi
}

render out/synthetic --frames train=2000,val=80,test=240 --per-scene 4
for rig in 1 2 3 4 5 6 7 8; do
    render "out/rigs/rig$rig" --rig "$rig" --first "${rig}000" --frames train=160,val=16
done
if [ $# = 0 ]; then
    render out/synthetic_rgb --frames train=1200,val=40 --first 100000 --per-scene 4
    train synthetic_pretrain out/synthetic_pretrain --data.root out/synthetic_rgb
    train synthetic_tiny out/synthetic_tiny --data.root out/synthetic
    train synthetic_rigs out/synthetic_rigs
    "$python" benchmarks/release_weights.py --weights out/synthetic_rigs/last.safetensors \
        --root out/synthetic --out models/tiny_synthetic.safetensors
else
    [ -f out/roads/kitti/meta.json ] || "$python" examples/real_roads.py "$1" out/roads
    for step in road_rgb road; do train "$step" "out/$step"; done
    "$python" benchmarks/release_weights.py --weights out/road/last.safetensors \
        --root out/synthetic --roads out/roads --boxes "$1/boxes/boxes.json" \
        --out models/tiny_road.safetensors
fi
