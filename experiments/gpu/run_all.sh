#!/usr/bin/env bash
# Everything in this project that wants an accelerator, in parts of at most ten minutes each on an H100, by estimate: of
# all this three forms of ResNet-50's training in "peers_resnet50", most of "recipe_resnet20" and the forms of
# "variants_groups" have been run on a GPU (an H200: a form of ResNet-50 takes half a minute to draw and to compile, one
# of ResNet-20 a quarter; the recipe three minutes). What is worth most comes first.
#
#   experiments/gpu/run_all.sh [PART …]     without a name: all parts, one after another
#
# A part leaves small JSON files under experiments/results/ and skips those that are there, so running it again goes on.
#
#   DATA      where TFDS keeps CIFAR-10 and ImageNet            (default ~/tensorflow_datasets)
#   RESULTS   where the JSON files go                           (default experiments/results beside this script)
#   RUNS      where training runs keep their workdirs           (default runs/gpu)
#   TORCH     the Python of an environment with PyTorch's CUDA build, for the parts peers_…   (default: that of JAX)
#   TINY=1    the same commands with tiny settings and networks, to try them on a CPU
set -uo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
DATA=${DATA:-$HOME/tensorflow_datasets}
RESULTS=${RESULTS:-$here/../results}
RUNS=${RUNS:-runs/gpu}
TINY=${TINY:-}
venv=$here/../../.venv/bin/python
PYTHON=${PYTHON:-$([[ -x $venv ]] && echo "$venv" || echo python3)}
TORCH=${TORCH:-$PYTHON}
PARTS=(peers_resnet50 recipe_resnet20 variants_groups peers_resnet20 recipe_resnet20_bfloat16 variants peers_resnet110
  recipe_resnet110 recipe_resnet110_bfloat16
  imagenet_bfloat16 cifar_bfloat16 eval compile memory stream input imagenet_float32 cifar_float32 recipe_plain20)

mkdir -p "$RESULTS"
failed=()

# result NAME COMMAND…: keeps what the command prints, a JSON document, unless it failed or is there already.
result() {
  local name=$1 file=$RESULTS/$1.json
  shift
  if [[ -s $file ]]; then
    echo "$name: already in $file"
    return
  fi
  echo "$name: $*"
  if "$@" >"$file.partial"; then
    mv "$file.partial" "$file"
  else
    rm -f "$file.partial"
    failed+=("$name")
  fi
}

resnet_jax() { "$PYTHON" -m resnet_jax.cli.main "$@"; }

# throughput MODEL DTYPE BATCH [ARGUMENT …]: a process of its own, so that its peak memory is that of one network.
throughput() {
  local model=$1 dtype=$2 batch=$3
  shift 3
  local size=(--steps=20 --rounds=5) cache=false # compile times are those of a first run
  [[ -n $TINY ]] && { batch=8; cache=true; size=(--steps=1 --rounds=1 --image_size=32); }
  JAX_ENABLE_COMPILATION_CACHE=$cache result "train_${model}_${dtype}" \
    resnet_jax benchmark train --model="$model" --dtype="$dtype" --batch_size="$batch" "${size[@]}" --format=json "$@"
}

imagenet() {
  local model models=(resnet18 resnet34 resnet50 resnet101 resnet152 plain18 plain34)
  [[ -n $TINY ]] && models=(resnet18)
  for model in "${models[@]}"; do throughput "$model" "$1" 256; done
}

cifar() {
  local depth depths=(20 32 44 56 110 1202)
  [[ -n $TINY ]] && depths=(8)
  for depth in "${depths[@]}"; do throughput "cifar_resnet$depth" "$1" 128; done
  [[ -n $TINY ]] || throughput cifar_plain20 "$1" 128
}

# How fast trained networks score images.
eval_() {
  local network dtype networks=(cifar_resnet20:128 cifar_resnet110:128 resnet50:256) size=(--steps=20 --rounds=5)
  [[ -n $TINY ]] && { networks=(cifar_resnet8:8); size=(--steps=1 --rounds=1); }
  for network in "${networks[@]}"; do
    for dtype in bfloat16 float32; do
      JAX_ENABLE_COMPILATION_CACHE=false result "eval_${network%:*}_$dtype" resnet_jax benchmark eval --model="${network%:*}" --dtype=$dtype \
        --batch_size="${network#*:}" "${size[@]}" --format=json
    done
  done
}

# How long steps of CIFAR's networks take to compile, the deepest ones too.
compile() {
  local size=(--rounds=3)
  [[ -n $TINY ]] && size=(--models=cifar_resnet8 --batch_size=8 --rounds=1)
  result compile_cifar resnet_jax benchmark compile "${size[@]}" --format=json
}

# What a step keeps of each image.
memory() {
  local model models=(cifar_resnet110 resnet50) sizes=32,64,128
  [[ -n $TINY ]] && { models=(cifar_resnet8); sizes=8,16; }
  for model in "${models[@]}"; do
    result "memory_$model" resnet_jax benchmark memory --model="$model" --dtype=bfloat16 --batch_sizes=$sizes \
      --format=json
  done
}

# variants whole|groups: whether scanned blocks, and many steps to a dispatch, pay on this device: with batch norm of
# the whole batch beside plain Linen, or with groups as the recipes have them, which Linen does not know. What a dispatch
# costs is the difference of "rolled" (one step) and "scanned" (200 or 20 steps).
variants() {
  local networks=(cifar_resnet20:128:64:200 resnet50:256:32:20) network batch group steps rounds=5 size
  [[ -n $TINY ]] && { networks=(cifar_resnet8:8:4:1); rounds=1; }
  for network in "${networks[@]}"; do
    IFS=: read -r network batch group steps <<<"$network"
    size=(--steps="$steps" --rounds=$rounds)
    if [[ $1 == groups ]]; then
      result "variants_groups_${network}" resnet_jax benchmark train --model="$network" --dtype=bfloat16 \
        --batch_size="$batch" --bn_group_size="$group" --variants=scanned,unrolled_scanned,rolled,unrolled "${size[@]}" \
        --format=json
    else
      result "variants_${network}" "$PYTHON" "$here/../benchmarks/linen.py" --model="$network" --dtype=bfloat16 \
        --batch_size="$batch" --variants=scanned,unrolled_scanned,rolled,unrolled,linen "${size[@]}" --format=json
    fi
  done
}

# peers NETWORK: training and inference in turn with PyTorch on this device. CIFAR's networks are so small that PyTorch
# waits for the host, which CUDA graphs spare it. Most of the time is compiling, reckoned with a minute for each form.
peers() {
  local task dtype dtypes=(bfloat16) forms=torch,torch_compile,torch_graphs,ours,linen rounds=(--rounds=5) work
  case $1 in
    resnet50) forms=torch,torch_compile,ours,linen ;;
    resnet20) dtypes=(bfloat16 float32) ;; # the recipe's is float32
  esac
  [[ -n $TINY ]] && { dtypes=(bfloat16); forms=torch,ours; rounds=(--rounds=1); }
  for task in train infer; do
    work=gpu_${task}_$1
    [[ -n $TINY ]] && work=${task}_resnet8
    for dtype in "${dtypes[@]}"; do
      result "peers_${task}_$1_$dtype" "$PYTHON" "$here/../benchmarks/peers.py" --works="$work" --forms=$forms \
        --dtype="$dtype" --torch_python="$TORCH" "${rounds[@]}" --format=json
    done
  done
}

# How fast images are read here, and whether a ResNet-50 that trains on them waits for them.
input() {
  local size=(--workers=0,4,8,15 --rounds=5)
  [[ -n $TINY ]] && size=(--workers=0 --rounds=1 --seconds=0.2 --batch_size=8)
  result input_speed "$PYTHON" "$here/../input/input_speed.py" --dataset=imagenet2012 --data_dir="$DATA" "${size[@]}" \
    --format=json
}

stream() {
  local dtype workdir dtypes=(bfloat16 float32) size=(--config.train.iterations=200 --config.train.log_every=50 --config.train.eval_every=200)
  [[ -n $TINY ]] && size=(--config.train.iterations=2 --config.model.family=cifar_resnet --config.model.depth=8
    --config.model.shortcut=A --config.stream.image_size=32 --config.stream.scales='(37,69)' --config.stream.resize_size=37
    --config.train.batch_size=32 --config.model.bn_group_size=4 --config.stream.mean_images=8)
  [[ -n $TINY ]] && dtypes=(bfloat16)
  for dtype in "${dtypes[@]}"; do
    workdir=$RUNS/stream-resnet50-$dtype
    if [[ ! -s $RESULTS/stream_resnet50_$dtype.json ]] && ! resnet_jax train --config=imagenet --workdir="$workdir" \
      --config.dataset.data_dir="$DATA" --config.model.dtype=$dtype --config.optimizer.learning_rate=0.02 "${size[@]}"; then
      failed+=("stream_resnet50_$dtype")
      continue
    fi
    result "stream_resnet50_$dtype" cat "$workdir/result.json"
  done
}

# recipe FAMILY DEPTH DTYPE: the paper's 64,000 iterations on CIFAR-10; what was interrupted goes on. The result's
# "training_seconds" are those of the iterations alone, without compiling, scoring and saving. Between two dispatches the
# host writes a line of metrics, 2 ms and more on two busy CPU cores, in which the device waits: 400 steps to a dispatch.
recipe() {
  local name=recipe_$1_$2_$3 workdir=$RUNS/cifar10-$1-$2-$3
  local size=(--config.model.depth="$2" --config.train.log_every=400 --config.train.eval_every=4000)
  if [[ -s $RESULTS/$name.json ]]; then
    echo "$name: already in $RESULTS/$name.json"
    return
  fi
  [[ -n $TINY ]] && size=(--config.train.iterations=4 --config.train.batch_size=16 --config.model.depth=8
    --config.model.bn_group_size=none)
  if resnet_jax train --config=cifar10 --config.model.family="$1" --config.model.dtype="$3" \
    --config.dataset.data_dir="$DATA" --workdir="$workdir" "${size[@]}"; then
    result "$name" cat "$workdir/result.json"
  else
    failed+=("$name")
  fi
}

for part in "${@:-${PARTS[@]}}"; do
  echo "== $part"
  case $part in
    imagenet_bfloat16 | imagenet_float32) imagenet "${part#imagenet_}" ;;
    cifar_bfloat16 | cifar_float32) cifar "${part#cifar_}" ;;
    eval) eval_ ;;
    compile) compile ;;
    memory) memory ;;
    variants) variants whole ;;
    variants_groups) variants groups ;;
    peers_resnet50 | peers_resnet20 | peers_resnet110) peers "${part#peers_}" ;;
    input) input ;;
    stream) stream ;;
    recipe_resnet20) recipe cifar_resnet 20 float32 ;;
    recipe_resnet20_bfloat16) recipe cifar_resnet 20 bfloat16 ;;
    recipe_resnet110) recipe cifar_resnet 110 float32 ;;
    recipe_resnet110_bfloat16) recipe cifar_resnet 110 bfloat16 ;;
    recipe_plain20) recipe cifar_plain 20 float32 ;;
    *)
      echo "unknown part $part: parts are ${PARTS[*]}" >&2
      exit 2
      ;;
  esac
done
if ((${#failed[@]})); then
  echo "failed: ${failed[*]}" >&2
  exit 1
fi
