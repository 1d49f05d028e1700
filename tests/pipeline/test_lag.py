"""What the figures say when nothing moves: the moment when somebody looks at them."""


def test_lag_goes_on_growing_while_the_pipeline_stands(space):
    """Redis answers nothing, the rings and the client's own queue are full, and the topic grows."""
    server = space.start_redis()
    space.topic()
    m = space.millrace(ring_bytes="1MiB", redis={"response_timeout": "60s"},
                       kafka={"queued.max.messages.kbytes": 1024, "queued.min.messages": 1000,
                              "fetch.message.max.bytes": 65536}).start_ready()
    m.wait_for(lambda s: sum(p["released"] == 0 for p in s["partitions"]) == 8, 20, "the assignment and the marks")
    server.pause()
    load = space.load(40_000, keys=4000)
    load.start()
    load.finish()
    m.wait_for(lambda s: m.worker("ingest", None, s)["metrics"]["worker_ring_full"] > 0, 20, "the rings to be full")
    seen = m.wait_for(lambda s: s if sum(p["high"] for p in s["partitions"]) == 40_000 else None, 20,
                      "the ends of all partitions to be known")
    assert m.metric("ingest_record_read", seen) < 30_000, "the client's queue was meant to be full"
    assert sum(p["lag"] for p in seen["partitions"]) > 39_000
    server.resume()
    m.wait_drained(load.next_offset)
    space.judge(produced=40_000)
    assert m.drain() == 0
