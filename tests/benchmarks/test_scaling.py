"""The summary of the scaling benchmark, and what it measures."""

from benchmarks import scaling


def test_images_of_all_sizes_have_as_many_pixels():
    found = [p.workload for p in scaling.points(False, 2) if p.series == "image size"]
    assert {(w.config.size[0], w.batch) for w in found} == {(16, 256), (32, 64), (64, 16), (128, 4)}
    assert all(w.config.attends(w.config.resolutions[-1]) for w in found)


def rows(ms: dict[tuple[int, int], float]) -> list[dict]:
    """ms an image by (batch, threads)."""
    return scaling.with_speed_up(
        [
            {"series": "batch", "value": n, "threads": t, "seconds": each * n, "ms an image": each}
            for (n, t), each in ms.items()
        ]
    )


def test_summary():
    found = rows({(1, 2): 50.0, (8, 2): 14.0, (64, 2): 13.0, (256, 2): 13.5, (64, 1): 26.0})
    assert [row["speed-up"] for row in found] == [None, None, 2.0, None, None]
    spread, speed_up = scaling.summary(found, 2)
    assert spread == "time an image from batch 8 to 256: spread 7.7%, at most 15%: held"
    assert speed_up == "2 threads over 1 at batch 64: 2.00, at least 1.8: held"


def test_summary_says_what_does_not_hold():
    found = rows({(8, 2): 16.0, (64, 2): 13.0, (64, 1): 20.0})
    assert all(line.endswith("NOT HELD") for line in scaling.summary(found, 2))
    assert scaling.summary(rows({(1, 2): 1.0}), 2) == []
