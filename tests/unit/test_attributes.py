"""Equal attribute sets are one object, for as long as somebody holds it, and go over the wire as what they are."""

from __future__ import annotations

import gc

import msgspec

from infra.attributes import Interned
from infra.tokens import Verifier
from infra.wire import Bind
from tests.unit.gateway_world import WALL, claims, issuer, sign


def test_given_equal_sets_when_interned_then_they_are_one_object_and_others_are_not():
    known = Interned()
    one, other = known.of({"a": "1", "b": "2"}), known.of({"b": "2", "a": "1"})
    assert one is other
    assert one == {"a": "1", "b": "2"}
    assert known.of({"a": "1"}) is not one
    assert {one: 1}[other] == 1


def test_given_a_set_that_nobody_holds_when_looked_for_then_it_is_gone():
    known = Interned()
    one = known.of({"a": "1"})
    known.of({"a": "2"})
    gc.collect()
    assert len(known) == 1
    del one
    gc.collect()
    assert len(known) == 0


def test_given_an_interned_set_when_encoded_then_it_is_a_map():
    bind = Bind("shop", 1, [], "", Interned().of({"a": "1"}))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(bind), type=Bind) == Bind("shop", 1, [], "", {"a": "1"})


def test_given_two_clients_with_equal_attributes_when_their_tokens_are_verified_then_they_share_one_object():
    verifier = Verifier()
    verifier.load({"shop": issuer()})
    one, other = (verifier.verify(sign(claims(name)), name, WALL).products["demo"].attrs for name in ("c1", "c2"))
    assert one is other
