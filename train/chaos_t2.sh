#!/usr/bin/env bash
# The table "trained on abdominal MR" of the documentation, from the scans on: a cross-validation in
# three folds, each prepared, trained and compared, then one table over the pairs of all.
#
#     bash train/chaos_t2.sh FOLDER OUTPUT
#
# FOLDER holds image_NN.nii.gz and label_NN.nii.gz of the CHAOS challenge (T2-SPIR, 14 subjects). Each
# subject is tested once, in all ordered pairs with the others of its fold, by networks that have
# seen none of them. Run again, it goes on where it stopped. PRECISION=bf16-mixed trains twice as
# fast where the processor knows bfloat16: on one such core each, two folds took two hours.
set -euo pipefail
scans=$1
out=$2
encoder=model.init_args.encoder.init_args
network=$encoder.network.init_args.arguments
# Four organs and background, and a quarter of the recipes' weights, which are for 13 organs.
small=(--$network.out_channels 5 --$network.channels "[8,16,32,64,128]")

fit() { # folder of the fold, recipe, epochs, further options
    local resume=()
    if [ -f "$1/$2/checkpoints/last.ckpt" ]; then resume=(--ckpt_path last); fi
    voxelopt fit --config "$2" --config "$1/data.yaml" --data.init_args.augmentation strong \
        --trainer.max_epochs "$3" --trainer.precision "${PRECISION:-32-true}" \
        -o "$1/$2" "${resume[@]}" "${@:4}"
}

fold() { # name, subjects tested, subjects trained on
    local to=$out/$1
    local features=("${small[@]}" --$encoder.scale 4
        --$encoder.weights "$to/segmentation/checkpoints/last.ckpt")
    voxelopt prepare "$scans" -o "$to/data" --images 'image_*.nii.gz' --labels 'label_*.nii.gz' \
        --spacing 4 --shape 80 64 72 --center mass --train "$3" --test "$2"
    cat > "$to/data.yaml" <<YAML
data:
  class_path: voxelopt_train.learning.PairDataModule
  init_args:
    data: $to/data
    label_names: {1: liver, 2: right kidney, 3: left kidney, 4: spleen}
YAML
    fit "$to" segmentation 48 "${small[@]}"
    # On pairs of those trained on, 0.3 is better than the recipes' 0.2, and than 0.4.
    local warmer=(--model.init_args.temperature "[0.4, 0.3]")
    fit "$to" unsupervised 2 "${features[@]}" "${warmer[@]}"
    fit "$to" semi_supervised 2 "${features[@]}" "${warmer[@]}"

    # The frozen features as a row: the recipe with this network and these weights.
    voxelopt test --config segmentation_features --config "$to/data.yaml" "${features[@]}" \
        --model.init_args.layer.init_args.temperature 0.3 -o "$to/unused" \
        --print_config > "$to/segmentation_features.yaml"
    voxelopt compare raw mind "$to/segmentation_features.yaml" "$to/unsupervised" \
        "$to/semi_supervised" --data "$to/data.yaml" -o "$to/tables"
}

first=01,02,03,05,08
second=10,13,15,19
third=20,21,22,31,32
fold 1 $first $second,$third
fold 2 $second $first,$third
fold 3 $third $first,$second
voxelopt pool "$out"/[123]/tables -o "$out/tables"
