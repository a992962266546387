#!/usr/bin/env bash
# Write what is uploaded to Grand Challenge into export/: the image as sctlab-*.tar.gz and the weights as model.tar.gz.
#   ./export.sh [--invoke] [--weights-only] [--output DIR] [BUNDLE ...]
# BUNDLE is a folder with a bundle.json; left out, every bundle in weights/ is packed. One bundle lies at the root of
# model.tar.gz, several lie in a folder each; the platform unpacks the archive into /opt/ml/model.
set -euo pipefail
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
export_folder=$root/export image=exec with_image=yes bundles=()

while (($#)); do
    case $1 in
        --invoke) image=invoke ;;
        --weights-only) with_image=no ;;
        --output)
            export_folder=${2:?--output needs a folder}
            shift
            ;;
        -h | --help)
            sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"
            exit
            ;;
        -*)
            echo "error: unknown option $1 (--help lists them)" >&2
            exit 2
            ;;
        *) bundles+=("${1%/}") ;;
    esac
    shift
done
((${#bundles[@]})) || for manifest in "$root"/weights/*/bundle.json; do bundles+=("${manifest%/bundle.json}"); done
for bundle in "${bundles[@]}"; do
    if [[ ! -f $bundle/bundle.json ]]; then
        echo "error: $bundle: no bundle.json in it, expected the folder of a bundle" >&2
        exit 2
    fi
done

# Everything is written beside its final name and renamed, so that a file under a final name is whole.
mkdir -p "$export_folder"
trap 'rm -f "$export_folder"/*.part' EXIT
compressor=gzip
command -v pigz >/dev/null && compressor=pigz

names=() folders=()
for bundle in "${bundles[@]}"; do
    bundle=$(cd -- "$bundle" && pwd)
    if ((${#bundles[@]} == 1)); then folders+=(-C "$bundle" .); else folders+=(-C "$(dirname "$bundle")" "$(basename "$bundle")"); fi
    names+=("$(basename "$bundle")")
done
# No owners and readable by everyone: the container's user is not the one who packs.
tar --create --owner=0 --group=0 --numeric-owner --mode=a+rX "${folders[@]}" | "$compressor" >"$export_folder/model.tar.gz.part"
mv "$export_folder/model.tar.gz.part" "$export_folder/model.tar.gz"
echo "weights: $export_folder/model.tar.gz (${names[*]}; $(du -h "$export_folder/model.tar.gz" | cut -f1))"

[[ $with_image == yes ]] || exit 0
if ! docker image inspect "sctlab:$image" >/dev/null 2>&1; then
    echo "error: there is no image sctlab:$image; make it with ./build.sh (or --weights-only)" >&2
    exit 1
fi
file=$export_folder/sctlab-$image.tar.gz
echo "Saving sctlab:$image ($(docker image inspect --format '{{.Size}}' "sctlab:$image" | numfmt --to=si)B); compressing takes some minutes."
docker save "sctlab:$image" | "$compressor" >"$file.part"
mv "$file.part" "$file"
echo "image: $file ($(du -h "$file" | cut -f1))"
