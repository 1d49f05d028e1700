"""The stats segment as it lies in memory, for what a command per look would be too slow for: who runs, and how far each
worker has come. Only what shm/stats.h says of the header and of a block's beginning is used."""

import mmap
import struct

VERSION = 3
VERSION_AT, BLOCKS_AT = 8, 492  # stats_header: version; block_count, block_at, block_stride
HEAD = struct.Struct("<IiIIQQQQQ16Q")  # stats_block, up to lane_published


class Worker:
    def __init__(self, fields):
        (_, self.lane, self.pid, self.state, self.starts, self.deaths, _, self.ready, published), lanes = \
            fields[:9], fields[9:]
        self.passed_on = published + sum(lanes)
        self.attached = self.ready == self.starts and self.pid != 0


class Segment:
    def __init__(self, path, lanes, audited):
        with open(path, "rb") as f:
            self.map = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)
        version, = struct.unpack_from("<I", self.map, VERSION_AT)
        assert version == VERSION, f"the segment has version {version}: look at shm/stats.h"
        count, self.at, self.stride = struct.unpack_from("<III", self.map, BLOCKS_AT)
        assert count == 2 + 2 * lanes + 2 * audited
        self.workers = [("ingest", 0)] + [(role, n) for n in range(lanes) for role in ("transform", "sink")] + \
            [("audit", 0), ("recon", 0)] * audited
        self.lanes = lanes

    def close(self):
        self.map.close()

    def worker(self, role, lane=0):
        index = {"ingest": 1, "transform": 2 + 2 * lane, "sink": 3 + 2 * lane, "audit": 2 + 2 * self.lanes,
                 "recon": 3 + 2 * self.lanes}[role]
        return Worker(HEAD.unpack_from(self.map, self.at + index * self.stride))
