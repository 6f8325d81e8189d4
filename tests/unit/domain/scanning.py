"""Questions about a single offer, as the market and its refusals answer them about all."""

from dstack.domain.misfits import fits, misfits
from dstack.domain.offers import Demand, Offer
from dstack.operations.refusals import misfit_text


def may_buy(demand: Demand, offer: Offer) -> bool:
    """Return whether a job may use a machine of this offer; one that exists already is not bought."""
    return (offer.exists or not demand.reuse_only) and fits(demand, offer)


def reasons_of(demand: Demand, offer: Offer) -> list[str]:
    """Return why an offer does not fit: one phrase for each reason."""
    return [misfit_text(misfit) for misfit in misfits(demand, offer)]
