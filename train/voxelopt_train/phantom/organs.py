"""The organs of the phantom, in mm and HU, in the portal venous phase.

World axes are RAS; the origin lies in front of the second lumbar vertebra. Structures are painted
in the order of the lists, each over the ones before it, so that neighbours need no exact fit.
"""

from __future__ import annotations

import numpy as np
import torch

from voxelopt_train.phantom.solids import Capsule, Structure, ellipsoid, mirrored, tube
from voxelopt_train.phantom.trunk import FAT_HU

# The 13 labels of "Beyond the Cranial Vault" (BTCV), in the order of the paper.
ORGANS = {
    1: "spleen",
    2: "right kidney",
    3: "left kidney",
    4: "gallbladder",
    5: "esophagus",
    6: "liver",
    7: "stomach",
    8: "aorta",
    9: "inferior vena cava",
    10: "portal and splenic veins",
    11: "pancreas",
    12: "right adrenal gland",
    13: "left adrenal gland",
}
CT_WINDOW = (-800.0, 500.0)  # HU: bone and air beyond say nothing about organs
_VENOUS_HU, _ARTERIAL_HU = 155.0, 165.0


def viscera(generator: torch.Generator) -> list[Structure]:
    """Bowel and the organs below the diaphragm, to be painted before the lungs."""
    return [*_bowel(generator), *_liver(), *_stomach_and_spleen(), *_kidneys()]


def _bowel(generator: torch.Generator) -> list[Structure]:
    """Colon with its pouches, small bowel in random loops, mesenteric vessels."""
    jitter = torch.randn(48, 4, generator=generator).double().numpy() * [9, 9, 6, 1.6]
    along = np.linspace(0, 2 * np.pi, 48)
    loops = jitter + np.stack(
        [64 * np.cos(4.5 * along), 44 + 22 * np.sin(11 * along), 4 - 21 * along, 12 + 0 * along], 1
    )
    loops = loops.clip([-78, 20, -140, 9], [78, 74, 6, 15])
    # fmt: off
    colon = tube(
        (96, 0, -150, 24), (100, 8, -70, 23), (94, 16, -34, 21), (76, 48, -22, 20),
        (40, 70, -34, 19), (0, 74, -44, 18), (-44, 72, -30, 18), (-84, 50, 4, 17),
        (-102, 22, 26, 16), (-112, -8, 0, 14), (-112, -10, -60, 14), (-102, 4, -150, 15),
        haustra=0.13,
    )
    # fmt: on
    vessels: list[Capsule] = []
    for x, bend in zip(np.linspace(-66, 66, 9).tolist(), jitter[:9, 0].tolist(), strict=True):
        end = (x, 44 + 2 * bend, -64 - abs(2 * bend), 1.6)
        vessels += tube((2, 34, 10, 3), (0.3 * x, 36, -24, 2.4), end)
    return [
        Structure(85, tube(*loops), core=(3.5, 35), texture=12),
        Structure(70, colon, core=(3.5, -40), gas_above_mm=66, texture=90),
        Structure(130, tuple(vessels), label=None),
    ]


def _liver() -> list[Structure]:
    lobes = (
        ellipsoid((68, 2, 44), (64, 86, 70), (0, 8, 0)),
        ellipsoid((2, 46, 74), (78, 34, 30), (0, -14, -8)),
        ellipsoid((24, 12, 66), (20, 16, 24)),
    )
    visceral_surface = ellipsoid((-6, 26, -40), (72, 92, 78), (0, 14, 0))
    retroperitoneum = ellipsoid((-4, -44, 56), (38, 52, 90))
    fissure = ellipsoid((8, 72, 62), (2.5, 26, 26), (0, 12, 0))
    veins = (
        *tube((24, 10, 104, 5), (50, 0, 96, 4), (84, -18, 78, 2.5)),
        *tube((24, 12, 104, 5), (42, 34, 92, 4), (62, 56, 62, 2.5)),
        *tube((22, 14, 102, 4.5), (4, 36, 90, 3.5), (-22, 52, 78, 2)),
        *tube((40, 26, 60, 5.5), (62, 16, 62, 4.5), (92, -8, 56, 3), (108, -30, 50, 2)),
        *tube((62, 16, 62, 4), (78, 36, 50, 3), (98, 44, 36, 2)),
        *tube((40, 26, 60, 4.5), (22, 44, 72, 3.5), (-18, 54, 68, 2)),
    )
    gallbladder = tube((52, 38, 40, 6), (62, 50, 28, 13), (68, 60, 8, 17))
    return [
        Structure(115, lobes, 6, 14, (visceral_surface, retroperitoneum, fissure), follows="liver"),
        Structure(168, veins, label=None, follows="liver"),
        Structure(55, gallbladder, 4, core=(2.5, 8), texture=2, follows="gallbladder"),
    ]


def _stomach_and_spleen() -> list[Structure]:
    # fmt: off
    stomach = tube(
        (-54, -18, 88, 26), (-68, 8, 78, 33), (-72, 38, 50, 29), (-52, 58, 16, 23),
        (-16, 62, 4, 19), (14, 52, 12, 14), (26, 42, 16, 10),
    )
    duodenum = tube(
        (26, 42, 16, 12), (46, 30, 10, 13), (48, 22, -16, 13), (30, 18, -34, 12), (-10, 22, -32, 11)
    )
    # fmt: on
    spleen = ellipsoid((-92, -34, 62), (36, 48, 54), (18, 0, -24))
    hilum = ellipsoid((-46, 8, 54), (34, 48, 62), (18, 0, -24))
    return [
        Structure(78, stomach, 7, core=(5, 22), gas_above_mm=57, texture=8, follows="stomach"),
        Structure(124, (spleen,), 1, minus=(hilum,), follows="spleen"),
        Structure(75, duodenum, core=(4, 30), texture=8, follows="pancreas"),
    ]


def _kidneys() -> list[Structure]:
    """Each in its capsule of fat, with cortex and medulla, and its vein."""
    structures = []
    for side, label, (x, y, z) in ((1, 2, (70, -26, 6)), (-1, 3, (-64, -25, 14))):
        tilt = (14, 10 * side, 24 * side)
        capsule = ellipsoid((x, y, z), (34, 32, 59), tilt)
        kidney = ellipsoid((x, y, z), (29, 27, 54), tilt)
        sinus = ellipsoid((x - side * 17, y + 8, z), (11, 9, 20), tilt)
        vein = tube(
            (x - side * 13, y + 8, z, 4), (x - side * 34, y + 22, z + 2, 4.5), (12, 14, z + 4, 5)
        )
        organ = ORGANS[label]
        structures += [
            Structure(FAT_HU, (capsule,), follows=organ),
            Structure(190, (kidney,), label, 0, (sinus,), core=(9, 160), texture=6, follows=organ),
            Structure(_VENOUS_HU, vein, follows=organ),
        ]
    return structures


def vessels_and_glands() -> list[Structure]:
    """What lies behind the peritoneum or passes the diaphragm, to be painted after the lungs."""
    # fmt: off
    mediastinum = (
        *tube((-6, -14, 150, 30), (-4, -10, 96, 22)), *tube((0, 60, 150, 44), (-4, 56, 112, 34)),
    )
    heart = ellipsoid((-30, 46, 152), (58, 48, 40), (0, 20, 0))
    pancreas = tube(
        (38, 30, 2, 14), (30, 36, 14, 16), (10, 44, 30, 10), (-24, 36, 38, 11), (-56, 10, 46, 10),
        (-80, -12, 52, 8),
    )
    portal = (
        *tube((-84, -16, 58, 4), (-56, 0, 48, 5), (-22, 26, 40, 5.5), (8, 32, 36, 7),
              (26, 28, 50, 7.5), (42, 26, 61, 6.5)),
        *tube((8, 32, 36, 6), (6, 36, 14, 5.5), (4, 36, -10, 5)),
    )
    right_adrenal = (
        *tube((30, 4, 80, 4), (34, -8, 66, 5), (40, -20, 50, 4)),
        *tube((34, -6, 66, 5), (26, -18, 52, 4)),
    )
    left_adrenal = (
        *tube((-32, 6, 74, 4), (-40, -4, 64, 5), (-54, -14, 54, 4)),
        *tube((-38, -2, 65, 5), (-34, -18, 54, 4)),
    )
    cava = tube(
        (22, 26, 150, 13), (24, 14, 104, 14), (22, 8, 60, 12), (18, 12, 10, 12), (16, 14, -64, 11)
    )
    iliac_veins = mirrored((14, 12, -72, 9), (38, 0, -112, 8), (58, 10, -150, 8))
    aorta = tube((-20, -20, 150, 12), (-14, -6, 90, 11.5), (-8, 12, 30, 10.5), (-4, 18, -66, 9))
    arteries = (
        *mirrored((4, 20, -68, 6), (30, 10, -104, 5.5), (50, 22, -150, 5)),
        *tube((-10, 18, 56, 3.5), (-6, 30, 54, 3)),
        *tube((-8, 20, 38, 4), (0, 32, 20, 3.5), (-6, 32, -20, 3)),
    )
    esophagus = tube((-6, -6, 150, 8), (-8, -2, 112, 8), (-26, -4, 98, 8.5), (-44, -12, 92, 9))
    # fmt: on
    return [
        Structure(FAT_HU, mediastinum, visceral=False),
        Structure(120, (heart,), core=(10, 150)),
        Structure(95, pancreas, 11, texture=14, follows=ORGANS[11]),
        Structure(172, portal, 10, follows=ORGANS[10]),
        Structure(72, right_adrenal, 12, texture=2, follows=ORGANS[12]),
        Structure(72, left_adrenal, 13, texture=2, follows=ORGANS[13]),
        Structure(_VENOUS_HU, cava, 9, follows=ORGANS[9], visceral=False),
        Structure(_VENOUS_HU, iliac_veins),
        Structure(_ARTERIAL_HU, aorta, 8, follows=ORGANS[8], visceral=False),
        Structure(_ARTERIAL_HU, arteries),
        Structure(62, esophagus, 5, core=(3.5, 35), follows=ORGANS[5], visceral=False),
    ]
