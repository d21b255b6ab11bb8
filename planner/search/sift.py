"""From a model's combinations to those worth showing: what no mask refuses is planned, priced and judged.

One task is one model. Its result is small however large the space: the best by every order, the first refusals, and
how many combinations each reason refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from planner.estimate.answer import STOPS, shortfall
from planner.estimate.bulk import bulk_work
from planner.estimate.deployments import Deployments
from planner.estimate.evidence import Stamp, folder_stamp
from planner.estimate.memory_plans import Planned, planned
from planner.estimate.pricing import taken
from planner.estimate.quality import stored_checks
from planner.estimate.refine import stored
from planner.estimate.screen import curves, shares_memory
from planner.search import axes
from planner.search.axes import Sizing
from planner.search.choose import early, offers, reach_budgets, settle
from planner.search.combinations import FAR, Job, places, replicas
from planner.search.order import foremost, patience
from planner.search.records import Ledger, Replica, Sifted, Task
from planner.search.starting import host_bytes, with_other_settings
from planner.specs.engine import EngineSpec
from planner.units import GIB

CHUNK = 1024  # replicas priced together, so that arrays stay in the cache
SET_ASIDE = 0.15  # most of a card that an engine sets aside and may be told not to


@bulk_work()
def sift(task: Task, stamp: Stamp | None = None) -> Sifted:
    """Sift all combinations of one model. `stamp`: of the folders of runs, where many tasks share it."""
    brought = task.library
    library = brought._replace(
        stamp=folder_stamp() if stamp is None else stamp, checks=brought.checks + stored_checks(), observations=stored()
    )
    job = Job(task, Ledger(task.most), library, axes.loads(task.load, task.space))
    together: dict[tuple[int, int], list[Replica]] = {}  # that share an engine and a model's tensors
    for name in axes.chosen_gpus(task.load, task.space):
        for row in places(job, name):
            for replica in replicas(job, name, row):
                own = replica.deployment.row
                chunk = together.setdefault((id(own.engine), id(own.model)), [])
                chunk.append(replica)
                if len(chunk) >= CHUNK:
                    _price(job, own.engine, chunk)
                    chunk.clear()
    for chunk in filter(None, together.values()):
        _price(job, chunk[0].deployment.row.engine, chunk)
    sifted = job.ledger.sifted()
    bearable = patience(vars(task.load), task.wish)
    return sifted._replace(kept=foremost(sifted.kept, task.wish, task.most, bearable))


def _price(job: Job, engine: EngineSpec, replicas: Sequence[Replica]) -> None:
    """Memory, then load curves of what starts, then every load; chunks whose loads have memory of their own apart."""
    asked = [job.loads] if shares_memory(engine) else [[load] for load in job.loads]
    for loads in asked:
        affordable = _within_budget(job, replicas, loads)
        if affordable:
            _price_loads(job, engine, affordable, loads)


def _within_budget(job: Job, replicas: Sequence[Replica], loads: Sequence[Sizing]) -> list[Replica]:
    """Those of which at least one load stays within the budgets; the others are refused unpriced."""
    configs = [replica.config for replica in replicas]
    offered = offers(configs, loads)
    verdicts = early(configs, offered, job.task.wish)
    fine = np.any(verdicts.first == 0, axis=0)
    refused = [config for config, good in zip(configs, fine.tolist(), strict=True) if not good]
    if refused:
        reach_budgets(refused, offers(refused, loads), job.task.wish, job.ledger)
    for j in np.flatnonzero(~fine).tolist():
        code = int(verdicts.first[0, j])
        why = verdicts.codes[code], verdicts.words[code](0, j)
        job.ledger.refuse(configs[j].columns, why, len(loads), float(verdicts.distance[0, j]))
    return [replica for replica, good in zip(replicas, fine.tolist(), strict=True) if good]


def _price_loads(job: Job, engine: EngineSpec, replicas: Sequence[Replica], loads: Sequence[Sizing]) -> None:
    """Plan and price what starts as it is, or else with other settings; refuse the rest."""
    most = max((load.concurrency or job.task.load.concurrency or 1) for load in loads)
    fewest = np.min(offers([replica.config for replica in replicas], loads).replicas, axis=0)
    each = most / fewest
    in_flight = np.ones(len(replicas)) if shares_memory(engine) else each
    deployments = Deployments(replica.deployment for replica in replicas)
    memory = planned(engine, deployments, in_flight)
    starts = memory.plan.verdict.starts
    able = np.flatnonzero(~starts & _may_start(replicas, memory, fewest)).tolist()
    changed = with_other_settings(engine, [replicas[j] for j in able], each[able])
    instead = {j: one for j, one in zip(able, changed, strict=True) if one}
    for j in np.flatnonzero(~starts).tolist():
        if j not in instead:
            _refuse_unstarted(job, replicas[j], memory, j, len(loads))
    kept = np.array([j for j in range(len(replicas)) if starts[j] or j in instead], dtype=np.intp)
    run = [instead.get(j, replicas[j]) for j in kept.tolist()]
    if run:
        deployments = Deployments(replica.deployment for replica in run) if instead else deployments.taken(kept)
        plans = planned(engine, deployments, in_flight[kept]) if instead else taken(memory, kept)
        settle(
            [replica.config for replica in run], curves(engine, deployments, plans), loads, job.task.wish, job.ledger
        )


def _may_start(replicas: Sequence[Replica], memory: Planned, fewest: Any) -> Any:
    """Which may start with other settings: what lacks little, or has a host's memory to itself."""
    device = np.array([(replica.deployment.row.scenario.device_gib or 0) * GIB for replica in replicas])
    hosted = np.array([host_bytes(replica.deployment.row) > 0 for replica in replicas]) & (fewest == 1)
    return hosted | (memory.plan.verdict.shortfall_bytes < SET_ASIDE * device)


def _refuse_unstarted(job: Job, replica: Replica, memory: Planned, at: int, loads: int) -> None:
    """Count out a replica that does not start, with what it lacks."""
    code, words = STOPS[str(memory.plan.verdict.breaks[at])]
    short = float(memory.plan.verdict.shortfall_bytes[at])
    distance = FAR * (1 + short / (replica.deployment.row.scenario.device_gib or 1) / GIB)
    job.ledger.refuse(replica.config.columns, (code, words + shortfall(short)), loads, distance)
