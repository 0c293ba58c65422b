#!/usr/bin/env bash
# ResNet-50 on ImageNet on the hosts of a Cloud TPU slice, from a machine with gcloud.
#
#   export TPU=NAME ZONE=ZONE DATA=/shared/tensorflow_datasets RUNS=/shared/runs
#   experiments/launch/tpu_pod.sh install              what the last commit holds, on every host
#   experiments/launch/tpu_pod.sh doctor               examine the hosts
#   experiments/launch/tpu_pod.sh train [ARGUMENT …]   start, or go on; it goes on when gcloud ends
#   experiments/launch/tpu_pod.sh log                  the end of each host's log
#   experiments/launch/tpu_pod.sh stop                 save a checkpoint and end
#
# DATA and RUNS must be the same folders on every host, such as a Filestore share that each has mounted. A slice that
# was preempted is gone: create it again, mount, install and train.
set -euo pipefail

TPU=${TPU:?the name of the slice}
ZONE=${ZONE:?the zone of the slice}
program=.venv-resnet-jax/bin/resnet-jax

on_all() { gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="$1"; }
quoted() { printf '%q ' "$@"; }

what=${1:-}
shift || true
case $what in
  install)
    archive=$(mktemp --suffix=.tar.gz)
    trap 'rm -f "$archive"' EXIT
    project=$(dirname "${BASH_SOURCE[0]}")/../..
    prefix=$(git -C "$project" rev-parse --show-prefix) # where the project is a folder of a larger repository
    # In a folder git would archive that folder alone.
    git -C "$(git -C "$project" rev-parse --show-toplevel)" archive --format=tar.gz --output="$archive" "HEAD:$prefix"
    gcloud compute tpus tpu-vm scp "$archive" "$TPU:resnet_jax.tar.gz" --zone="$ZONE" --worker=all
    # The Python of Ubuntu 22.04, which these hosts have, is 3.10.
    on_all 'set -e; sudo apt-get install --yes --quiet python3.11-venv; mkdir -p resnet_jax
      tar --extract --gzip --file=resnet_jax.tar.gz --directory=resnet_jax
      python3.11 -m venv .venv-resnet-jax; .venv-resnet-jax/bin/pip install --quiet "./resnet_jax[tpu]"'
    ;;
  doctor)
    on_all "$(quoted "$program" doctor --workdir="${RUNS:?}/resnet50-90ep" --distributed=tpu)"
    ;;
  train)
    # 128 images on each of 16 chips; the rate stays 0.1 for each 256, and rises over five epochs.
    command=$(quoted "$program" train --config=imagenet_90ep --config.train.batch_size=2048 \
      --config.optimizer.warmup_steps=3127 --config.dataset.data_dir="${DATA:?}" \
      --workdir="${RUNS:?}/resnet50-90ep" --distributed=tpu "$@")
    # Only 76, another host was lost, is worth another try without a look at the log, and not for ever.
    loop="for try in {1..20}; do $command; status=\$?; [ \$status = 76 ] || break; sleep 5
      [ ! -e resnet-jax.stop ] || break; done; echo \"exit status \$status\""
    # With a log instead of the connection, which may end before the training.
    on_all "if pgrep -x resnet-jax; then echo 'it runs already: stop it first' >&2; exit 1; fi; rm -f resnet-jax.stop
      setsid nohup bash -c $(quoted "$loop") </dev/null >>resnet-jax.log 2>&1 &"
    ;;
  log)
    on_all 'echo "== $(hostname)"; tail -n 20 resnet-jax.log'
    ;;
  stop)
    # The oldest: a process that started with --distributed is the child of another one, which passes the signal on.
    # One that is between two starts finds the file.
    on_all 'touch resnet-jax.stop; pkill -TERM -x -o resnet-jax'
    ;;
  *)
    echo "usage: tpu_pod.sh install|doctor|train|log|stop; got '$what'" >&2
    exit 2
    ;;
esac
