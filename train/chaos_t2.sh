#!/usr/bin/env bash
# The table "trained on abdominal MR" of the README, from the scans on: prepare, train, compare.
#
#     bash train/chaos_t2.sh FOLDER OUTPUT
#
# FOLDER holds image_NN.nii.gz and label_NN.nii.gz of the CHAOS challenge (T2-SPIR). Nine subjects
# train; 20, 21, 22, 31 and 32 are tested, all 20 ordered pairs of them. Run again, it goes on where
# it stopped. PRECISION=bf16-mixed trains twice as fast where the processor knows bfloat16: on two
# such cores it takes about an hour and a quarter.
set -euo pipefail
scans=$1
out=$2
encoder=model.init_args.encoder.init_args
network=$encoder.network.init_args.arguments
# Four organs and background; the recipes are for 13 organs.
organs=(--$network.out_channels 5)
features=("${organs[@]}" --$encoder.scale 4 --$encoder.weights "$out/segmentation/checkpoints/last.ckpt")

voxelopt prepare "$scans" -o "$out/data" --images 'image_*.nii.gz' --labels 'label_*.nii.gz' \
    --spacing 4 --shape 80 64 72 --center mass \
    --train 01,02,03,05,08,10,13,15,19 --validation 31,32 --test 20,21,22,31,32
cat > "$out/data.yaml" <<YAML
data:
  class_path: voxelopt_train.learning.PairDataModule
  init_args:
    data: $out/data
    label_names: {1: liver, 2: right kidney, 3: left kidney, 4: spleen}
YAML

fit() { # recipe, epochs, further options
    local resume=()
    if [ -f "$out/$1/checkpoints/last.ckpt" ]; then resume=(--ckpt_path last); fi
    voxelopt fit --config "$1" --config "$out/data.yaml" --data.init_args.augmentation strong \
        --trainer.max_epochs "$2" --trainer.precision "${PRECISION:-32-true}" \
        -o "$out/$1" "${resume[@]}" "${@:3}"
}
fit segmentation 32 "${organs[@]}"
# On pairs of the nine, 0.3 is better than the recipes' 0.2, and than 0.4.
warmer=(--model.init_args.temperature "[0.4, 0.3]")
fit unsupervised 2 "${features[@]}" "${warmer[@]}"
fit semi_supervised 2 "${features[@]}" "${warmer[@]}"

# The frozen features as a row: the recipe with this network and these weights.
voxelopt test --config segmentation_features --config "$out/data.yaml" "${features[@]}" \
    --model.init_args.layer.init_args.temperature 0.3 -o "$out/unused" \
    --print_config > "$out/segmentation_features.yaml"
voxelopt compare raw mind "$out/segmentation_features.yaml" "$out/unsupervised" \
    "$out/semi_supervised" --data "$out/data.yaml" -o "$out/tables"
