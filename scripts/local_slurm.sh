#!/usr/bin/env bash
# A SLURM of one node on this machine, for tests and for trying launcher=slurm; Debian: apt-get install slurm-wlm munge.
# Usage, as root: scripts/local_slurm.sh start FOLDER, then export SLURM_CONF=FOLDER/slurm.conf; scripts/local_slurm.sh stop FOLDER
set -euo pipefail

usage="usage: $0 start|stop FOLDER"
action=${1:?$usage}
folder=$(mkdir -p "${2:?$usage}" && cd "$2" && pwd)
host=$(hostname -s)
cores=${LOCAL_SLURM_CPUS:-4} # may be more than there are: the daemon is told not to count

start() {
  for program in munged slurmctld slurmd; do
    command -v "$program" >/dev/null || { echo "error: no $program here: apt-get install slurm-wlm munge" >&2; exit 2; }
  done
  mkdir -p "$folder"/{state,spool,log}
  cat >"$folder/slurm.conf" <<CONF
ClusterName=local
SlurmctldHost=$host(127.0.0.1)
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
CryptoType=crypto/munge
AuthInfo=socket=$folder/munge.socket,cred_expire=5
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmctldPort=${LOCAL_SLURM_PORT:-16817}
SlurmdPort=$((${LOCAL_SLURM_PORT:-16817} + 1))
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd.log
SlurmdParameters=config_overrides
ReturnToService=2
MpiDefault=none
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=5
MinJobAge=300
JobRequeue=1
GresTypes=gpu
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cores RealMemory=20000 Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=30
PartitionName=high Nodes=$host Default=NO MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
CONF
  for number in 0 1; do # stand-ins, so that CUDA_VISIBLE_DEVICES is set for each job
    [[ -e "$folder/nvidia$number" ]] || mknod "$folder/nvidia$number" c 1 3
  done
  echo "NodeName=$host Name=gpu File=$folder/nvidia[0-1]" >"$folder/gres.conf"
  echo "CgroupPlugin=cgroup/v1" >"$folder/cgroup.conf"
  export SLURM_CONF="$folder/slurm.conf"
  if [[ ! -e "$folder/munge.key" ]]; then
    (umask 077 && head -c 1024 /dev/urandom >"$folder/munge.key")
  fi
  munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" --pid-file="$folder/munged.pid" \
    --log-file="$folder/log/munged.log" --seed-file="$folder/munged.seed"
  slurmctld -f "$SLURM_CONF"
  slurmd -f "$SLURM_CONF"
  for _ in $(seq 100); do
    if [[ "$(sinfo --noheader --partition=main --format=%t 2>/dev/null)" == idle ]]; then
      echo "SLURM is up: export SLURM_CONF=$SLURM_CONF"
      return
    fi
    sleep 0.2
  done
  echo "error: SLURM did not come up; see $folder/log" >&2
  stop
  exit 1
}

stop() {
  export SLURM_CONF="$folder/slurm.conf"
  timeout 20 scancel --user="$(id -un)" 2>/dev/null || true # while munged can still vouch for it
  for _ in $(seq 50); do
    [[ -z "$(timeout 5 squeue --noheader 2>/dev/null)" ]] && break
    sleep 0.2
  done
  for daemon in slurmd slurmctld munged; do
    [[ -e "$folder/$daemon.pid" ]] || continue
    pid=$(cat "$folder/$daemon.pid")
    for _ in $(seq 50); do # until it is gone, and writes nothing more
      kill "$pid" 2>/dev/null || break
      sleep 0.2
    done
  done
}

case "$action" in
  start) start ;;
  stop) stop ;;
  *) echo "$usage" >&2; exit 2 ;;
esac
