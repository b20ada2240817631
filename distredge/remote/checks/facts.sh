# Prints what a board's own tools say, for `distredge doctor --cluster`. It reads and changes nothing.
# POSIX sh. Sections begin with "@@ NAME". PEERS has a line "HOST PORT" for every port of the other boards, KEYS is the
# folder of keys that `cluster start` copied, ENGINE the older Python in which the worker's engine runs, "" if none.
LC_ALL=C
export LC_ALL
PATH=$PATH:/usr/sbin:/sbin:/usr/local/bin
has() { command -v "$1" >/dev/null 2>&1; }
soon() { if has timeout; then timeout 3 "$@"; else "$@"; fi; }
part() { printf '\n@@ %s\n' "$1"; }

part clock
date +%s.%N
part architecture
uname -m
part bits
getconf LONG_BIT
part system
sed -n 's/^PRETTY_NAME=//p' /etc/os-release
part board
tr -d '\000' </proc/device-tree/model
part l4t
head -n 1 /etc/nv_tegra_release
part cores
getconf _NPROCESSORS_ONLN
part memory
cat /proc/meminfo
part disk
df -Pk "${HOME:-/}"
part pythons
for name in python3 python3.10 python3.11 python3.12 python3.13 python3.14; do
  has "$name" && "$name" -c 'import sys; print(".".join(map(str, sys.version_info[:3])))'
done
part engine
[ -n "$ENGINE" ] && if has timeout; then limit="timeout 10"; else limit=; fi && $limit "$ENGINE" -E -c '
import sys
print("python %d.%d.%d" % sys.version_info[:3])
for name in ("numpy", "onnxruntime"):
    try:
        module = __import__(name)
        print("%s %s" % (name, module.__version__))
    except Exception as error:
        print("without %s %s: %s" % (name, type(error).__name__, " ".join(str(error).split())))
        sys.exit()
print("providers " + " ".join(module.get_available_providers()))
'
part managed
ls -d /usr/lib/python3*/EXTERNALLY-MANAGED
part distredge
for program in "$HOME/.local/share/distredge/venv/bin/distredge" distredge; do
  has "$program" && soon "$program" --version
done
part keys
has sha256sum && sha256sum "$HOME/$KEYS/public.json"
part governor
cat /sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor
part frequency
for folder in /sys/devices/system/cpu/cpu[0-9]*/cpufreq; do
  echo "$(cat "$folder/scaling_min_freq") $(cat "$folder/scaling_max_freq") $(cat "$folder/cpuinfo_max_freq")"
done
part temperature
for zone in /sys/class/thermal/thermal_zone*; do
  echo "$(cat "$zone/type") $(cat "$zone/temp")"
done
part cooling
for device in /sys/class/thermal/cooling_device*; do
  echo "$(cat "$device/type") $(cat "$device/cur_state") $(cat "$device/max_state")"
done
part throttled
has vcgencmd && soon vcgencmd get_throttled
part power_mode
has nvpmodel && soon nvpmodel -q </dev/null
part power_modes
grep POWER_MODEL /etc/nvpmodel.conf
part tegrastats
has tegrastats && has timeout && timeout 2 tegrastats --interval 500 | head -n 1
part interfaces
ip -o addr show up
part speeds
for folder in /sys/class/net/*; do
  wireless=wired
  [ -e "$folder/wireless" ] || [ -e "$folder/phy80211" ] && wireless=wireless
  echo "${folder##*/} $wireless $(cat "$folder/speed")"
done
part power_save
for folder in /sys/class/net/*; do
  if [ -e "$folder/wireless" ] || [ -e "$folder/phy80211" ]; then
    has iw && echo "${folder##*/} $(soon iw dev "${folder##*/}" get power_save)"
  fi
done
part listening
if has ss; then ss -ltnp; else cat /proc/net/tcp /proc/net/tcp6; fi
part synchronised
has timedatectl && soon timedatectl show -p NTPSynchronized
part names
echo "$PEERS" | cut -d ' ' -f 1 | sort -u | {
  while read -r host; do
    [ -n "$host" ] && has getent || continue
    echo "$host $(soon getent ahosts "$host" | cut -d ' ' -f 1 | sort -u | tr '\n' ' ')" &
  done
  wait
}
part reached
if has bash && has timeout; then
  echo "$PEERS" | {
    while read -r host port; do
      [ -n "$port" ] || continue
      {
        if timeout 3 bash -c 'exec 3<>"/dev/tcp/$1/$2"' - "$host" "$port"; then
          echo "$host $port yes"
        else
          echo "$host $port no"
        fi
      } &
    done
    wait
  }
fi
part end
exit 0
