"""What sessions ask of a store that several processes share. Values are bytes: who keeps them knows what they mean."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class SharedSession:
    """What is known of a session everywhere.

    Attributes:
        id: of the session.
        picture: sha256 of the upload, hexadecimal.
        owner: who opened it.
        made: masks made so far, by the mark in their ids.
        masks: how many of them are kept.
        mask_sets: ids, in the order they were kept.
    """

    id: str
    picture: str
    owner: str
    made: Mapping[str, int]
    masks: int = 0
    mask_sets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Known:
    """What the store has of a session and its picture.

    Attributes:
        picture: whether the picture is there.
        embedding: whether its embedding by this model is.
        masks: ids of the masks.
        mask_sets: ids of the mask sets.
    """

    picture: bool
    embedding: bool
    masks: frozenset[str]
    mask_sets: frozenset[str]


class SharedStore(Protocol):
    """The second level of the sessions. Every method may raise StoreAwayError."""

    @property
    def is_away(self) -> bool:
        """Whether the last question failed."""
        ...

    @property
    def failures(self) -> int:
        """Questions that failed since the start."""
        ...

    def use(self, session_id: str, model: str) -> SharedSession:
        """Look at a session and renew the time of everything that belongs to it, with the embedding by that model.

        Raises:
            UnknownIdError, ForgottenIdError: there is none of this id.
        """
        ...

    def known(self, session_id: str, picture: str, model: str) -> Known:
        """What is there already of a session, its picture, and the picture's embedding by a model."""
        ...

    def keep_session(self, session: SharedSession, model: str) -> bool:
        """Keep a session, or add to one that is there; false if it was deleted, and nothing is kept."""
        ...

    def forget_session(self, session_id: str) -> None:
        """Forget a session with its masks and mask sets, and remember that it was deleted."""
        ...

    def picture(self, picture: str) -> bytes | None:
        """A picture by its hash."""
        ...

    def keep_picture(self, picture: str, data: bytes) -> None:
        """Keep a picture."""
        ...

    def embedding(self, picture: str, model: str) -> bytes | None:
        """The embedding of a picture by a model."""
        ...

    def keep_embedding(self, picture: str, model: str, data: bytes, replace: bool = False) -> bool:
        """Keep an embedding; false if there is one, which stays unless it is to be replaced."""
        ...

    def count_masks(self, session_id: str, count: int) -> int | None:
        """Take numbers for new masks: the first one, or None if there is no such session."""
        ...

    def keep_masks(self, session_id: str, masks: Mapping[str, bytes]) -> None:
        """Keep masks by their ids."""
        ...

    def mask(self, session_id: str, mask_id: str) -> bytes | None:
        """A mask's logits."""
        ...

    def keep_mask_set(self, session_id: str, set_id: str, data: bytes, plan: bytes | None) -> None:
        """Keep a mask set, and the plan by which it was grouped last."""
        ...

    def mask_set(self, set_id: str) -> bytes | None:
        """A mask set."""
        ...

    def find_mask_set(self, set_id: str) -> tuple[str | None, bytes | None]:
        """The session that a mask set was made in, if it ever was, and the plan by which it was grouped last."""
        ...

    def keep_plan(self, set_id: str, plan: bytes) -> None:
        """Keep the plan by which a mask set was grouped."""
        ...
