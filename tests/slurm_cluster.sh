#!/usr/bin/env bash
# A Slurm cluster of one machine, loopback only, for as long as a test needs it. It runs as the user who starts it, on
# ports and in a folder of its own; nothing outside the folder is touched. Debian: apt-get install slurm-wlm munge
#
#     tests/slurm_cluster.sh up /tmp/cluster
#     export SLURM_CONF=/tmp/cluster/slurm.conf PATH=/tmp/cluster/bin:$PATH && sinfo
#     tests/slurm_cluster.sh down /tmp/cluster
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin
what=$1
folder=$(mkdir -p "$2" && cd "$2" && pwd)
user=$(id -un)
host=$(hostname -s)
memory=$(awk '/MemTotal/ {print int($2 / 1024) - 500}' /proc/meminfo)  # MB

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

write_settings() {
    mkdir -p "$folder/state" "$folder/spool" "$folder/bin"
    # Snakemake's jobs forget where the settings are before they call srun
    printf '#!/bin/sh\nSLURM_CONF=%s exec %s "$@"\n' "$folder/slurm.conf" "$(command -v srun)" > "$folder/bin/srun"
    chmod +x "$folder/bin/srun"
    cat > "$folder/slurm.conf" <<SETTINGS
ClusterName=simseg
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$(free_port)
SlurmdPort=$(free_port)
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=sched_min_interval=0
KillWait=5
ReturnToService=2
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$memory State=UNKNOWN
PartitionName=cells Nodes=ALL Default=YES MaxTime=INFINITE State=UP
SETTINGS
}

up() {
    write_settings
    chmod 700 "$folder"  # munged wants nobody else to write where its socket lies
    head -c 128 /dev/urandom > "$folder/munge.key"
    chmod 600 "$folder/munge.key"
    munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" --pid-file="$folder/munged.pid" \
        --log-file="$folder/munged.log" --seed-file="$folder/munged.seed"
    export SLURM_CONF=$folder/slurm.conf
    slurmctld -i
    slurmd
    for _ in $(seq 60); do
        if sinfo --noheader --format=%T 2> /dev/null | grep -q idle; then return; fi
        sleep 1
    done
    echo "The cluster did not come up; see the logs in $folder." >&2
    exit 1
}

down() {
    for name in slurmd slurmctld munged; do
        if [ -f "$folder/$name.pid" ]; then kill "$(cat "$folder/$name.pid")" 2> /dev/null || true; fi
    done
}

"$what"
