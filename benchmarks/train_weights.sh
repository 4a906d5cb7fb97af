#!/usr/bin/env bash
# Makes models/tiny_synthetic.safetensors: renders worlds, pretrains the RGB part on some of them,
# trains with all sensors on others, scores. About three hours on two cores. Continue an interrupted
# training with `mmsam train --resume out/…`.
set -euo pipefail
cd "$(dirname "$0")/.."
mmsam=.venv/bin/mmsam
"$mmsam" synth folder out/synthetic_rgb --frames train=1200,val=40 --first 100000 --per-scene 4
"$mmsam" synth folder out/synthetic --frames train=2000,val=80,test=240 --per-scene 4
"$mmsam" train --config synthetic_pretrain --data.root out/synthetic_rgb
"$mmsam" train --config synthetic_tiny --data.root out/synthetic
.venv/bin/python benchmarks/release_weights.py --weights out/synthetic_tiny/last.safetensors \
    --root out/synthetic --out models/tiny_synthetic.safetensors
