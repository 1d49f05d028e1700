"""One record, from its creation to what Redis holds now, however it is asked for."""

import json

from harness import audit_log
from harness.generator import change_topic
from harness.process import wait_until
from harness.till import Till, digest_key

STAGES = ("created", "kafka", "ingested", "transformed", "sent", "answered", "logged")


def record(m, *args, status=0):
    done = m.run_command("recon", "record", "--format", "json", *args)
    assert done.returncode == status, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    return json.loads(done.stdout)


def test_one_record_is_shown_with_all_that_is_known_of_it(space):
    redis = space.start_redis()
    topic = space.topic(change_topic, partitions=2, evidence="manifest", compress="lz4", encrypt=True)
    manifests = f"{topic.name}.manifests"
    space.broker.create_topics([manifests], 1)
    m = space.millrace(audit="on", crypto={"keys": str(space.key_file())},
                       recon={"window": "10s", "manifest_topic": manifests}).start_ready()
    till = Till(space.broker, topic.name, digest_key(m.folder / "audit.keys"), 10_000, manifests)
    till.publish(20, twice={4}).declare()
    m.wait_for(lambda s: s["metrics"]["audit_entry"] == 21 and all(p["committed"] == p["high"] for p in s["partitions"]),
               30, "all to be logged and committed")
    logged = audit_log.entries(m.data_dir)
    one = next(e for e in logged if e["sequence"] == 7)
    at = f"{topic.name}/{one['partition']}/{one['offset']}"
    wait_until(lambda: record(m, "--at", at)["entries"][0]["committed"] == "yes", 30, "recon to know of the commit")
    (e,) = record(m, "--at", at)["entries"]
    times = [e[stage] for stage in STAGES]
    assert times == sorted(times), e
    assert (e["outcome"], e["operation"], e["declared"]) == ("applied", "add", "as declared")
    assert e["published_digest"] == e["stored_digest"] == "hmac:" + one["digest_stored"].hex() and e["sequence"] == 7
    assert record(m, "--id", e["id"])["entries"] == [e]

    # The one that came twice is there twice, and is asked for by either place, its id, or its key.
    twice = [x for x in logged if x["sequence"] == 4]
    both = record(m, "--id", str(audit_log.uuid.UUID(bytes=twice[0]["id"])))["entries"]
    assert [x["offset"] for x in both] == sorted(x["offset"] for x in twice) and len(both) == 2
    assert record(m, "--at", f"{topic.name}/{both[1]['partition']}/{both[1]['offset']}")["entries"] == both
    m.wait_for(lambda s: s["metrics"]["recon_entry_behind"] == 0, 20, "recon to have read them")
    found = record(m, "--key", "card:till4:1", "--redis")
    assert found["entries"] == both and found["redis"] == "what it should"
    assert found["live"]["offset"] == both[1]["offset"] and [f["finding"] for f in found["findings"]] == ["duplicate"]

    with redis.client() as c:
        mine, other = c.get("card:till4:1"), c.get("card:till5:1")
        assert b"till4" not in mine
        for value, said in ((other, "undecodable"), (b"plain", "something else"), (None, "nothing"),
                            (mine, "what it should")):
            c.delete("card:till4:1") if value is None else c.set("card:till4:1", value)
            assert record(m, "--key", "card:till4:1", "--redis")["redis"] == said
    assert record(m, "--key", "card:nobody:1", "--redis", status=66)["redis"] == "nothing"
    table = m.run_command("recon", "record", "--key", "card:till4:1", "--redis").stdout
    assert table.count("  answered ") == 2 and "Redis holds: what it should" in table
    assert "finding: duplicate" in table
    assert m.drain() == 0
