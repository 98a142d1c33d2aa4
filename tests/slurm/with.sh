#!/usr/bin/env bash
# Run a command beside a Slurm of one node that lives in a folder of its own, and end both.
#   tests/slurm/with.sh COMMAND [ARGUMENT ...]
# Debian's packages are installed where they are missing, which needs root; nothing under /etc is
# read or changed. The node has 4 processors and 2 GPUs on paper, whatever the machine has: a device
# file is all that Slurm asks of a GPU.
set -euo pipefail
refuse() { echo "no Slurm: $1" >&2; exit 69; }

[ "$(id -u)" = 0 ] || refuse "its daemons need root"
export PATH="$PATH:/usr/sbin:/sbin"
missing=
for program in slurmctld slurmd munged sbatch; do
    command -v "$program" > /dev/null || missing="$missing $program"
done
if [ -n "$missing" ]; then
    command -v apt-get > /dev/null || refuse "there is no$missing"
    export DEBIAN_FRONTEND=noninteractive
    { apt-get -qq update && apt-get -qq install -y --no-install-recommends \
        slurmctld slurmd slurm-client munge; } > /dev/null || refuse "apt-get cannot install it"
fi

room=$(mktemp -d -t slurm.XXXXXX)
chmod 755 "$room"  # munge refuses what others could write to
mkdir -p "$room/state" "$room/spool"
daemons=()
finish() {
    scancel --quiet --user=root --signal=KILL 2> /dev/null || true
    for ((i = ${#daemons[@]} - 1; i >= 0; i--)); do
        kill "${daemons[i]}" 2> /dev/null && wait "${daemons[i]}" || true
    done
    rm -rf "$room"
}
trap finish EXIT

port() { python3 -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])'; }
cat > "$room/gres.conf" <<END
Name=gpu File=/dev/null
Name=gpu File=/dev/zero
END
cat > "$room/slurm.conf" <<END
ClusterName=test
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=$(port)
SlurmdPort=$(port)
AuthType=auth/munge
AuthInfo=socket=$room/munge.socket
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$room/state
SlurmdSpoolDir=$room/spool
SlurmctldPidFile=$room/slurmctld.pid
SlurmdPidFile=$room/slurmd.pid
SlurmctldLogFile=$room/slurmctld.log
SlurmdLogFile=$room/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SwitchType=switch/none
MpiDefault=none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MailProg=/bin/true
GresTypes=gpu
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,batch_sched_delay=1
ReturnToService=2
KillWait=2
NodeName=$(hostname -s) NodeAddr=127.0.0.1 CPUs=4 RealMemory=500000 Gres=gpu:2
PartitionName=main Nodes=ALL Default=YES State=UP
END
export SLURM_CONF="$room/slurm.conf"
dd if=/dev/urandom of="$room/munge.key" bs=1024 count=1 status=none
chmod 400 "$room/munge.key"
munged --foreground --force --key-file="$room/munge.key" --socket="$room/munge.socket" \
    --pid-file="$room/munge.pid" --seed-file="$room/munge.seed" --log-file="$room/munge.log" \
    > /dev/null 2>&1 &
daemons+=($!)
for _ in $(seq 50); do [ -S "$room/munge.socket" ] && break; sleep 0.1; done
slurmctld -D > /dev/null 2>&1 &
daemons+=($!)
slurmd -D > /dev/null 2>&1 &
daemons+=($!)
for _ in $(seq 150); do
    [ "$(sinfo --noheader --format=%T 2> /dev/null)" = idle ] && break
    sleep 0.2
done
if [ "$(sinfo --noheader --format=%T 2> /dev/null)" != idle ]; then
    tail -n 20 "$room"/*.log >&2
    refuse "it did not start"
fi
"$@"
