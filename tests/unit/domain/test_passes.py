"""A pass with its sets and memories decides as a scan of everything would, also in parts."""

from collections import Counter
from dataclasses import dataclass, field, replace

from hypothesis import given
from hypothesis import strategies as st

from dstack.domain.market import Market
from dstack.domain.misfits import fits
from dstack.domain.objects import Job
from dstack.domain.offers import Bounds, Demand, GpuDemand, Offer, OfferName, Share, share_of
from dstack.domain.placement import BEHIND, JobQueue, Placement, passes
from dstack.domain.rooms import Room, empty_room
from dstack.protocol.agent import Engine, Gpu, HostResources
from tests.making import CLOUD, DEMAND, job
from tests.unit.domain.scanning import may_buy

A100 = Gpu("nvidia", "A100", 40960)


def placed(placement: Placement) -> list[tuple[str, str]]:
    return [(one.job.id, one.key) for one in placement.placed]


@dataclass
class Scan:
    """The rules of a pass by a scan of everything, as simple as they can be written."""

    rooms: list[Room]
    offers: list[Offer]
    left: dict[OfferName, int | None]
    sold_out: list[Offer]
    placed: dict[str, str] = field(default_factory=dict)
    waiting: dict[str, bool] = field(default_factory=dict)
    """By run: whether it waits for what earlier ones have claimed."""
    hopeless: list[str] = field(default_factory=list)
    claimed_kinds: set[tuple[str | None, Offer]] = field(default_factory=set)
    claimed_offers: set[OfferName] = field(default_factory=set)
    bought: int = 0

    def run(self, gangs: list[list[Job]]) -> None:
        waits: dict[tuple[str, Demand], Job] = {}
        for gang in gangs:
            first = gang[0]
            if (first.project_id, first.demand) in waits:
                continue
            if self.place(gang, claimed_too=False, keeps=True):
                earlier = [(room, one) for room in self.rooms for one in waits.values() if self.serves(room, one)]
                self.claimed_kinds |= {(room.project_id, room.offer) for room, _ in earlier}
                if self.is_closed():
                    return
                continue
            serving = [room for room in self.rooms if self.serves(room, first)]
            buyable = [one for one in self.offers if may_buy(first.demand, one)]
            if not serving and not buyable and any(may_buy(first.demand, one) for one in self.sold_out):
                self.hopeless += [one.id for one in gang]
            else:
                self.waiting[first.run_id] = self.place(gang, claimed_too=True, keeps=False)
                waits[first.project_id, first.demand] = first
                self.claimed_kinds |= {(room.project_id, room.offer) for room in serving}
                self.claimed_offers |= {one.name for one in buyable}
            if self.is_closed():
                return

    def serves(self, room: Room, job: Job) -> bool:
        return room.project_id in (None, job.project_id) and fits(job.demand, room.offer)

    def place(self, gang: list[Job], *, claimed_too: bool, keeps: bool) -> bool:
        rooms, left, number = [room.copy() for room in self.rooms], dict(self.left), self.bought
        places: dict[str, str] = {}
        own: list[Room] = []  # what a gang buys is its own
        for one in gang:
            could = [
                (room, part)
                for room in rooms
                if self.serves(room, one)
                and (claimed_too or room in own or (room.project_id, room.offer) not in self.claimed_kinds)
                and (part := room.share_for(one.demand, share_of(one.demand, room.offer))) is not None
            ]
            best = min(could, key=lambda found: (found[0].offer.price, found[0].cpus, found[0].key), default=None)
            if best is None:
                new = next((offer for offer in self.offers if self.may_buy(one, offer, left, claimed_too)), None)
                if new is None:
                    return False
                left[new.name] = None if (rest := left[new.name]) is None else rest - 1
                room = empty_room(f"new-{number}", new, None if new.for_all else one.project_id)
                number += 1
                rooms.append(room)
                own.append(room)
                best = room, share_of(one.demand, new)
            best[0].take(best[1])
            places[one.id] = best[0].key
        if keeps:
            self.rooms, self.left, self.bought = rooms, left, number
            self.placed |= places
        return True

    def may_buy(self, job: Job, offer: Offer, left: dict[OfferName, int | None], claimed_too: bool) -> bool:
        is_left = (rest := left[offer.name]) is None or rest > 0
        return is_left and (claimed_too or offer.name not in self.claimed_offers) and may_buy(job.demand, offer)

    def is_closed(self) -> bool:
        """Return whether nothing is left for anybody."""
        open_rooms = [
            room for room in self.rooms if not room.is_full and (room.project_id, room.offer) not in self.claimed_kinds
        ]
        free = [
            one
            for one in self.offers
            if one.name not in self.claimed_offers and ((rest := self.left[one.name]) is None or rest > 0)
        ]
        return not open_rooms and not free


ENGINE = Engine("docker", "27", "x86_64")
some_offers = st.builds(
    Offer,
    backend=st.sampled_from(["aws", "gcp"]),
    region=st.just("eu"),
    instance_type=st.sampled_from("abc"),
    resources=st.sampled_from(
        [
            HostResources(2, 8192, 200_000, engine=ENGINE),
            HostResources(4, 16384, 200_000, engine=ENGINE),
            HostResources(4, 16384, 200_000, (A100,), engine=ENGINE),
        ]
    ),
    price=st.sampled_from([0.1, 0.5]),
    blocks=st.sampled_from([1, 1, None]),
    exists=st.sampled_from([False, False, True]),
    for_all=st.booleans(),
    machines_max=st.sampled_from([None, 0, 1, 1, 2, 2]),
)
ANY = Demand(Bounds(1, None, True), Bounds(1024, None, True), Bounds(None, None, False))
some_demands = st.sampled_from(
    [
        ANY,
        replace(ANY, cpus=Bounds(3, None, True)),
        replace(ANY, gpu=GpuDemand(Bounds(1, None, True))),
        replace(ANY, backends=("aws",)),
        replace(ANY, reuse_only=True),
    ]
)
projects = st.sampled_from(["0-project", "0-project", "0-project", "1-project"])


@dataclass
class World:
    """A small market with machines in use, and a queue."""

    gangs: list[list[Job]]
    rooms: list[Room]
    offers: list[Offer]
    in_use: Counter[OfferName]
    sold_out: list[Offer]


@st.composite
def worlds(draw: st.DrawFn) -> World:
    by_name = {one.name: one for one in draw(st.lists(some_offers, max_size=6))}
    offers = sorted(by_name.values(), key=lambda one: (one.price, one.backend, one.region, one.instance_type, one.spot))
    rooms = []
    for number, (offer, project, taken) in enumerate(
        draw(st.lists(st.tuples(st.sampled_from(offers), projects, st.integers(0, 3)), max_size=5)) if offers else []
    ):
        room = empty_room(f"{number}", offer, None if offer.for_all else project)
        if taken:
            room.take(Share(min(taken, room.cpus), 2048))
        rooms.append(room)
    asked = draw(st.lists(st.tuples(some_demands, projects, st.sampled_from([1, 1, 2, 3])), max_size=8))
    gangs = [
        [
            job(id=f"{number}-{node}", run_id=f"{number}", project_id=project, node=node, nodes=nodes, demand=demand)
            for node in range(nodes)
        ]
        for number, (demand, project, nodes) in enumerate(asked)
    ]
    ending = draw(st.lists(st.sampled_from(list(by_name)), max_size=2)) if offers else []
    in_use = Counter([room.offer.name for room in rooms] + ending)
    sold_out = [one for one in offers if draw(st.sampled_from([False, False, False, True]))]
    return World(gangs, rooms, offers, in_use, sold_out)


def scan_of(world: World) -> Scan:
    on_sale = [one for one in world.offers if one not in world.sold_out]
    left = {
        one.name: None if one.machines_max is None else one.machines_max - world.in_use[one.name] for one in on_sale
    }
    scan = Scan([room.copy() for room in world.rooms], on_sale, left, world.sold_out)
    scan.run(world.gangs)
    return scan


def pass_over(world: World) -> Placement:
    jobs = [one for gang in world.gangs for one in gang]
    names = [one.name for one in world.sold_out]
    rooms = [room.copy() for room in world.rooms]
    return passes.place(JobQueue(jobs), rooms, Market.of(world.offers), world.in_use, names)


@given(worlds())
def test_pass_decides_as_a_scan_of_everything(world: World) -> None:
    placement, scan = pass_over(world), scan_of(world)
    assert dict(placed(placement)) == scan.placed
    assert [one.id for one in placement.hopeless] == scan.hopeless
    assert {id: reason == BEHIND for id, reason in placement.waiting.items()} == scan.waiting


@given(worlds())
def test_pass_after_an_arrival_decides_as_one_that_looks_at_all_again(world: World) -> None:
    *earlier, last = world.gangs or [[]]
    rooms, market = [room.copy() for room in world.rooms], Market.of(world.offers)
    sold_out = [one.name for one in world.sold_out]
    before = passes.place(JobQueue([one for gang in earlier for one in gang]), rooms, market, world.in_use, sold_out)
    in_use = world.in_use + Counter(room.offer.name for room in before.bought)
    gone = {one.job.id for one in before.placed} | {one.id for one in before.hopeless}
    queue = [one for gang in [*earlier, last] for one in gang if one.id not in gone]

    def again(known: passes.Known) -> Placement:
        there = [room.copy() for room in (*rooms, *before.bought)]
        return passes.place(JobQueue(queue), there, market, in_use, sold_out, known=known)

    whole, short = again(passes.NOTHING), again(before.known_after(market.index))
    assert placed(short) == placed(whole)
    # A short pass looks at one gang even where nothing is left to place: it may find one more that is hopeless.
    extra = [one for one in short.hopeless if one not in whole.hopeless]
    assert [one for one in short.hopeless if one not in extra] == whole.hopeless
    assert len({one.run_id for one in extra}) <= 1
    there = [room.copy() for room in (*rooms, *before.bought)]
    assert passes.place(JobQueue(extra), there, market, in_use, sold_out).hopeless == extra
    assert short.lines.keys() >= whole.lines.keys()


@given(worlds(), st.integers(1, 3))
def test_pass_in_parts_places_what_one_pass_places(world: World, at_once: int) -> None:
    whole = pass_over(world)
    rooms, market = [room.copy() for room in world.rooms], Market.of(world.offers)
    in_use, known, found = Counter(world.in_use), passes.NOTHING, dict[str, str]()
    gone, hopeless, numbers = set[str](), [], iter(range(100))
    for _ in range(100):
        looks = iter(range(at_once - 1))
        jobs = [one for gang in world.gangs if gang[0].id not in gone for one in gang]
        queue = JobQueue(jobs)
        part = passes.place(
            *(queue, rooms, market, in_use, [one.name for one in world.sold_out]),
            known=known,
            is_over=lambda placed, looks=looks: next(looks, None) is None,
        )
        names = {room.key: f"bought-{next(numbers)}" for room in part.bought}
        found |= {one.job.id: names.get(one.key, one.key) for one in part.placed}
        hopeless += [one.id for one in part.hopeless]
        gone |= {one.job.id for one in part.placed} | {one.id for one in part.hopeless}
        for room in part.bought:
            room.key = names[room.key]
            in_use[room.offer.name] += 1
            rooms.append(room)
        known = part.known(market.index)
        if part.is_complete:
            break
    assert part.is_complete, "each part looks at something new"
    assert found == {id: key.replace("new-", "bought-") for id, key in placed(whole)}
    assert hopeless == [one.id for one in whole.hopeless]


def test_arrival_takes_nothing_that_a_known_line_has_claimed() -> None:
    last_but_one = replace(CLOUD, machines_max=2)
    market, in_use = Market.of([last_but_one]), {last_but_one.name: 1}
    gang = [job(id=f"gang-{node}", node=node, nodes=2, run_id="gang") for node in range(2)]
    arrival = job(id="arrival", run_id="arrival", demand=replace(DEMAND, cpus=Bounds(1, None, written=True)))
    before = passes.place(JobQueue(gang), [], market, in_use)
    known = before.known_after(market.index)
    after = passes.place(JobQueue([*gang, arrival]), [], market, in_use, known=known)
    assert (after.placed, after.waiting) == ([], {"arrival": BEHIND})
    assert placed(passes.place(JobQueue([arrival]), [], market, in_use)) == [("arrival", "new-0")]
