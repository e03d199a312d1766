#!/usr/bin/env bash
# The table "trained on abdominal MR" of the README, from the scans on: prepare, train, compare.
#
#     bash train/chaos_t2.sh FOLDER OUTPUT
#
# FOLDER holds image_NN.nii.gz and label_NN.nii.gz of the CHAOS challenge (T2-SPIR). Nine subjects
# train; 20, 21, 22, 31 and 32 are tested, all 20 ordered pairs of them. On two cores it takes an hour or more.
set -euo pipefail
scans=$1
out=$2
encoder=model.init_args.encoder.init_args
network=$encoder.network.init_args.arguments
# Four organs and background at 6 mm: a smaller network than the recipes' for 13 organs at 2 mm.
small=(--$network.out_channels 5 --$network.channels "[16,32,64,128]" --$network.strides "[2,2,2]")
features=("${small[@]}" --$encoder.scale 4 --$encoder.weights "$out/segmentation/checkpoints/last.ckpt")

voxelopt prepare "$scans" -o "$out/data" --images 'image_*.nii.gz' --labels 'label_*.nii.gz' \
    --spacing 6 --shape 56 48 40 --center mass \
    --train 01,02,03,05,08,10,13,15,19 --validation 31,32 --test 20,21,22,31,32
cat > "$out/data.yaml" <<YAML
data:
  class_path: voxelopt_train.learning.PairDataModule
  init_args:
    data: $out/data
YAML

fit() { # name, recipe, augmentation, epochs, further options
    voxelopt fit --config "$2" --config "$out/data.yaml" --data.init_args.augmentation "$3" \
        -o "$out/$1" --trainer.max_epochs "$4" "${@:5}"
}
fit masks segmentation mild 12 "${small[@]}"
fit segmentation segmentation strong 12 "${small[@]}" \
    --$encoder.weights "$out/masks/checkpoints/last.ckpt"
fit unsupervised unsupervised strong 3 "${features[@]}"
fit semi_supervised semi_supervised strong 3 "${features[@]}"

# The frozen features as a row: the recipe with this network and these weights.
voxelopt test --config segmentation_features --config "$out/data.yaml" "${features[@]}" \
    -o "$out/unused" --print_config > "$out/segmentation_features.yaml"
voxelopt compare raw mind "$out/segmentation_features.yaml" "$out/unsupervised" \
    "$out/semi_supervised" --data "$out/data.yaml" -o "$out/tables"
