"""What boards' tools print, written after their documentation.

`vcgencmd get_throttled`: raspberrypi.com/documentation, "vcgencmd". `nvpmodel -q`, `tegrastats`, /etc/nvpmodel.conf:
NVIDIA's Jetson Linux Developer Guide, "Power Management" and "tegrastats Utility". `ip -o addr`, `ss -ltnp`, `iw dev
NAME get power_save`: as Debian 12's programs print them. None was recorded on a board.
"""

from __future__ import annotations

TEGRASTATS_ORIN = (
    "11-29-2026 12:24:07 RAM 2453/7620MB (lfb 5x4MB) SWAP 0/3810MB (cached 0MB) "
    "CPU [12%@729,3%@729,0%@729,0%@729,off,off] EMC_FREQ 0%@2133 GR3D_FREQ 0%@[305] NVDEC off APE 174 "
    "cpu@47.031C soc2@46.5C soc0@46.812C gpu@45.906C tj@47.031C soc1@47C VDD_IN 3812mW/3820mW"
)
TEGRASTATS_NANO = (
    "RAM 1903/3964MB (lfb 46x4MB) SWAP 0/1982MB (cached 0MB) IRAM 0/252kB(lfb 252kB) CPU [15%@1428,9%@1428,off,off] "
    "EMC_FREQ 2%@1600 GR3D_FREQ 0%@76 APE 25 PLL@32C CPU@35.5C PMIC@100C GPU@34C AO@40.5C thermal@34.75C "
    "POM_5V_IN 2177/2177 POM_5V_GPU 40/40 POM_5V_CPU 325/325"
)
NVPMODES_ORIN_NANO = "< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=1 NAME=7W >\n# < POWER_MODEL ID=9 NAME=MAXN >\n"
SS = """State  Recv-Q Send-Q Local Address:Port  Peer Address:PortProcess
LISTEN 0      128          0.0.0.0:22         0.0.0.0:*
LISTEN 0      100     192.168.1.11:5700       0.0.0.0:*    users:(("distredge",pid=811,fd=12))
LISTEN 0      511             [::]:8080          [::]:*    users:(("node",pid=90,fd=3),("node",pid=91,fd=3))
"""
PROC_NET_TCP = """  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1644 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 21841 1 0 100 0 0 10 0
   1: 0B01A8C0:1645 1401A8C0:9C40 01 00000000:00000000 00:00000000 00000000  1000        0 21842 1 0 100 0 0 10 0
"""
IP = r"""1: lo    inet 127.0.0.1/8 scope host lo\       valid_lft forever preferred_lft forever
2: eth0    inet 192.168.1.11/24 brd 192.168.1.255 scope global dynamic eth0\       valid_lft 8s preferred_lft 8s
2: eth0    inet6 fe80::dea6:32ff:fe01:2/64 scope link \       valid_lft forever preferred_lft forever
3: wlan0    inet 192.168.1.12/24 scope global wlan0\       valid_lft forever preferred_lft forever
4: docker0    inet 172.17.0.1/16 brd 172.17.255.255 scope global docker0\       valid_lft forever preferred_lft forever
7: veth12@if6    inet6 fe80::1/64 scope link \       valid_lft forever preferred_lft forever
"""
PI = f"""
@@ clock
1795956254.25
@@ architecture
aarch64
@@ bits
32
@@ system
"Raspbian GNU/Linux 12 (bookworm)"
@@ board
Raspberry Pi 4 Model B Rev 1.4
@@ l4t
@@ cores
4
@@ memory
MemTotal:        3884292 kB
MemFree:         1214880 kB
MemAvailable:    2949120 kB
@@ disk
Filesystem     1024-blocks    Used Available Capacity Mounted on
/dev/mmcblk0p2    30345532 9120340    300000      97% /
@@ pythons
3.11.2
3.11.2
@@ managed
/usr/lib/python3.11/EXTERNALLY-MANAGED
@@ distredge
@@ keys
@@ governor
ondemand
ondemand
@@ frequency
600000 1800000 1800000
600000 1800000 1800000
@@ temperature
cpu-thermal 81777
@@ cooling
pwm-fan 3 4
cpufreq-cpu0 2 8
@@ throttled
throttled=0x50005
@@ power_mode
@@ power_modes
@@ tegrastats
@@ interfaces
{IP}@@ speeds
docker0 wired -1
eth0 wired 100
lo wired
wlan0 wireless
@@ power_save
wlan0 Power save: on
@@ listening
{SS}@@ synchronised
NTPSynchronized=no
@@ names
tx2-0.local
nano-0 127.0.1.1
@@ reached
192.168.1.13 5701 no
192.168.1.14 5701 yes
@@ end
"""
ORIN = f"""
@@ clock
1795956254
@@ architecture
aarch64
@@ bits
64
@@ system
"Ubuntu 22.04.5 LTS"
@@ board
NVIDIA Jetson Orin Nano Developer Kit
@@ l4t
# R36 (release), REVISION: 4.0, GCID: 37537400, BOARD: generic, EABI: aarch64, DATE: Fri Sep 13 04:36:44 UTC 2024
@@ cores
4
@@ memory
MemTotal:        7803000 kB
MemAvailable:    5200000 kB
@@ disk
/dev/nvme0n1p1   238000000 9120340 200000000      4% /
@@ pythons
3.10.12
@@ managed
@@ distredge
distredge 0.1.0
@@ keys
00ff  /home/u/.local/share/distredge/workers/c/orin-0/keys/public.json
@@ governor
schedutil
@@ frequency
729600 1510400 1510400
@@ temperature
cpu-thermal 47031
cv0-thermal -256000
@@ cooling
pwm-fan 1 3
@@ throttled
@@ power_mode
NV Power Mode: 7W
1
@@ power_modes
{NVPMODES_ORIN_NANO}@@ tegrastats
{TEGRASTATS_ORIN}
@@ interfaces
{IP}@@ speeds
eth0 wired 1000
@@ power_save
@@ listening
@@ synchronised
NTPSynchronized=yes
@@ names
@@ reached
@@ end
"""
