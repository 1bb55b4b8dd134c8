"""The peers' halves of bench_peers.py, run by the Python that has them: SIDE ARGUMENTS..., rates in GB/s as one JSON object on the last line.

  mooncake-put MASTER BLOCK_BYTES BLOCKS        a client with its own segment puts into it
  mooncake-get MASTER BLOCK_BYTES BLOCKS        a client without a segment gets from another process's
  nixl BLOCK_BYTES DEPTH SECONDS                two processes, WRITE, three transfers under way
"""
import json
import multiprocessing
import os
import sys
import time

import numpy

WINDOW = 3  # NIXL's transfers under way, as in `baton bench transfer`
BATCH = 32  # keys of one batched get: Baton's reader has as many blocks under way
PATIENCE_S = 60


def mooncake_client(master, segment_bytes):
    from mooncake.store import MooncakeDistributedStore
    store = MooncakeDistributedStore()
    if store.setup("127.0.0.1", "P2PHANDSHAKE", segment_bytes, 64 << 20, "tcp", "", master) != 0:
        sys.exit(f"a Mooncake client cannot join {master}")
    return store


def mooncake_buffer(store, block_bytes, blocks, seed):
    """Registered memory of random bytes, and the addresses of its blocks."""
    content = numpy.random.default_rng(seed).integers(0, 256, block_bytes * blocks, dtype=numpy.uint8)
    if store.register_buffer(content.ctypes.data, content.nbytes) != 0:
        sys.exit("Mooncake did not register the buffer")
    return content, [content.ctypes.data + i * block_bytes for i in range(blocks)]


def put_blocks(store, name, places, block_bytes):
    keys = [f"{name}-{i}" for i in range(len(places))]
    begin = time.perf_counter()
    for key, place in zip(keys, places):
        if store.put_from(key, place, block_bytes) != 0:
            sys.exit(f"Mooncake did not take {key}")
    return keys, len(keys) * block_bytes / (time.perf_counter() - begin) / 1e9


def mooncake_put(master, block_bytes, blocks):
    store = mooncake_client(master, 3 * block_bytes * blocks + (64 << 20))
    _, places = mooncake_buffer(store, block_bytes, blocks, 1)
    put_blocks(store, "first", places, block_bytes)  # connects, touches memory
    _, rate = put_blocks(store, "put", places, block_bytes)
    store.close()
    return {"put": rate}


def mooncake_owner(master, block_bytes, blocks, pipe):
    store = mooncake_client(master, 2 * block_bytes * blocks + (64 << 20))
    content, places = mooncake_buffer(store, block_bytes, blocks, 2)
    keys, _ = put_blocks(store, "get", places, block_bytes)
    pipe.send((keys, int(content[:: 4096].astype(numpy.uint64).sum())))
    pipe.recv()
    store.close()


def get_blocks(store, keys, places, block_bytes):
    """GB/s of the faster of two ways to get everything: in batches, or one by one."""
    rates = []
    for step in (BATCH, 1):
        begin = time.perf_counter()
        for i in range(0, len(keys), step):
            got = store.batch_get_into(keys[i:i + step], places[i:i + step], [block_bytes] * len(keys[i:i + step]))
            if any(n != block_bytes for n in got):
                sys.exit(f"Mooncake gave {got} instead of {block_bytes} bytes each")
        rates.append(len(keys) * block_bytes / (time.perf_counter() - begin) / 1e9)
    return max(rates)


def mooncake_get(master, block_bytes, blocks):
    pipe, other = multiprocessing.Pipe()
    owner = multiprocessing.get_context("spawn").Process(target=mooncake_owner, args=(master, block_bytes, blocks, other), daemon=True)
    owner.start()
    if not pipe.poll(PATIENCE_S):
        sys.exit("Mooncake's other process did not come up")
    keys, checksum = pipe.recv()
    store = mooncake_client(master, 0)
    content, places = mooncake_buffer(store, block_bytes, blocks, 3)
    get_blocks(store, keys, places, block_bytes)  # connects, touches memory
    if int(content[:: 4096].astype(numpy.uint64).sum()) != checksum:
        sys.exit("Mooncake gave other bytes than were put")
    rate = get_blocks(store, keys, places, block_bytes)
    store.close()
    pipe.send(None)
    owner.join(PATIENCE_S)
    return {"get": rate}


def nixl_agent_with(name, content):
    try:
        from nixl_cu12._api import nixl_agent, nixl_agent_config
    except ImportError:
        from nixl._api import nixl_agent, nixl_agent_config
    agent = nixl_agent(name, nixl_agent_config(backends=["UCX"]))
    agent.register_memory([(content.ctypes.data, content.nbytes, 0, "")], "DRAM")
    return agent


def nixl_target(block_bytes, depth, pipe):
    content = numpy.zeros(WINDOW * depth * block_bytes, dtype=numpy.uint8)
    agent = nixl_agent_with("target", content)
    pipe.send((agent.get_agent_metadata(), content.ctypes.data))
    pipe.recv()
    pipe.send(bool((content == 0x5a).all()))
    pipe.recv()


def write_for(agent, handles, seconds):
    """Transfers finished by having every handle under way for so long, and the seconds it really took."""
    finished, begin = 0, time.perf_counter()
    states = [agent.transfer(handle) for handle in handles]
    while any(states):
        now = time.perf_counter() - begin
        for i, handle in enumerate(handles):
            if states[i] == "PROC":
                states[i] = agent.check_xfer_state(handle)
            if states[i] == "ERR" or now > seconds + PATIENCE_S:
                sys.exit("a NIXL transfer failed or never ended")
            if states[i] == "DONE":
                finished += 1
                states[i] = agent.transfer(handle) if now < seconds else None
    return finished, time.perf_counter() - begin


def nixl(block_bytes, depth, seconds):
    pipe, other = multiprocessing.Pipe()
    target = multiprocessing.get_context("spawn").Process(target=nixl_target, args=(block_bytes, depth, other), daemon=True)
    target.start()
    content = numpy.full(WINDOW * depth * block_bytes, 0x5a, dtype=numpy.uint8)
    agent = nixl_agent_with("initiator", content)
    if not pipe.poll(PATIENCE_S):
        sys.exit("NIXL's other process did not come up")
    metadata, address = pipe.recv()
    peer = agent.add_remote_agent(metadata)
    handles = []
    for transfer in range(WINDOW):
        steps = [(transfer * depth + i) * block_bytes for i in range(depth)]
        local = agent.get_xfer_descs([(content.ctypes.data + step, block_bytes, 0) for step in steps], "DRAM")
        remote = agent.get_xfer_descs([(address + step, block_bytes, 0) for step in steps], "DRAM")
        handles.append(agent.initialize_xfer("WRITE", local, remote, peer))
    write_for(agent, handles, 0.2)
    finished, took_s = write_for(agent, handles, seconds)
    pipe.send(None)
    if not pipe.poll(PATIENCE_S) or not pipe.recv():
        sys.exit("NIXL's bytes did not arrive")
    pipe.send(None)
    return {"write": finished * depth * block_bytes / took_s / 1e9}


if __name__ == "__main__":
    side, *arguments = sys.argv[1:]
    if side == "nixl":
        print(json.dumps(nixl(int(arguments[0]), int(arguments[1]), float(arguments[2]))), flush=True)
        os._exit(0)  # its libraries crash in their own clean-up, now and then
    else:
        run = {"mooncake-put": mooncake_put, "mooncake-get": mooncake_get}[side]
        print(json.dumps(run(arguments[0], int(arguments[1]), int(arguments[2]))))
