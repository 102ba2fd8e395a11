"""Pools of processes that are not forked: a manager arrives there as its configuration."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.processes


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_pool_of_processes(run, method, tmp_path):
    reports = run(f"""
    from concurrent.futures import ProcessPoolExecutor

    path = {str(tmp_path)!r} + "/plugins.json"
    wanted = configuration(WHERE)
    wanted["plugins"] = [plugin for plugin in wanted["plugins"] if plugin["name"] in ("http", "unix")]
    wanted["plugins"][0]["endpoint"] = "${{HTTP_URL}}"
    wanted["load_balancers"] = []
    with open(path, "w") as file:
        json.dump(wanted, file)
    os.environ["HTTP_URL"] = WHERE["http"]
    manager = Manager()
    manager.load_from_config(path)
    quotes = manager.bind("http")

    with ProcessPoolExecutor(2, multiprocessing.get_context({method!r})) as pool:
        report([answer["request"] for answer in pool.map(quotes, range(20))])
        report(pool.submit(manager.execute, "unix", 1).result()["request"])
        report(pool.submit(quotes.result, 2).result().value["request"])
        # Each worker has made one manager, whatever came.
        report(sum(pool.submit(manager.metrics).result().requests_total > 1 for _ in range(4)) > 0)
        # What goes wrong there comes back as what it is, and the pool lives.
        os.unlink(path)
        for name in ("http", "unknown"):
            try:
                report(pool.submit(manager.execute, name, 1).result()["request"])
            except PluginError as error:
                report(type(error).__name__)
    with ProcessPoolExecutor(1, multiprocessing.get_context({method!r})) as pool:
        try:
            pool.submit(quotes, 1).result()
        except PluginError as error:
            report(type(error).__name__)
        with open(path, "w") as file:
            json.dump(wanted, file)
        report(pool.submit(quotes, 1).result()["request"])
        manager.register(__import__("tests.integration.processes.plugins", fromlist=["echo"]).echo, name="echo")
        try:
            pool.submit(quotes, 1).result()
        except TypeError as error:
            report("registered in code (echo)" in str(error))
    """)
    assert reports == [list(range(20)), 1, 2, True, 1, "PluginNotFoundError", "ConfigFileError", 1, True]


def test_a_queue_between_forked_processes(run):
    """A child has inherited the manager, and finds it again by what comes through the queue."""
    reports = run("""
    manager = everything(WHERE)
    context = multiprocessing.get_context("fork")
    tasks, answers = context.SimpleQueue(), context.SimpleQueue()
    def work():
        got = tasks.get()
        answers.put([got is manager, call_all(got, 2)])
    process = context.Process(target=work)
    process.start()
    tasks.put(manager)
    report(answers.get())
    process.join()
    """)
    assert reports == [[True, 2]]
