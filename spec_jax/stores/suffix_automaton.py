"""The suffix automaton of one growing text.

Blumer et al. 1985; as Hu et al. 2024 (SAM Decoding, Sec. 3.1) use it: each
state remembers where it first ended, and the longest suffix of the text that
occurred before is tracked in amortised constant time per token.
"""


class SuffixAutomaton:
  """All substrings of a text, and the longest suffix that is a repetition."""

  def __init__(self):
    self.tokens: list[int] = []
    self._next: list[dict[int, int]] = [{}]
    self._link = [-1]
    self._length = [0]
    self._end = [-1]  # Where the state's strings first ended.
    self._last = 0
    self._state, self._matched = 0, 0

  @property
  def num_states(self) -> int:
    return len(self._link)

  def append(self, token: int) -> None:
    """First looks the token up, then adds it: a text does not match itself."""
    self._state, self._matched = self.transfer(
        self._state, self._matched, token)
    self._extend(token)

  def transfer(self, state: int, matched: int, token: int) -> tuple[int, int]:
    """The longest suffix of `matched` tokens and one more that occurs."""
    while state and token not in self._next[state]:
      state = self._link[state]
      matched = self._length[state]
    if token not in self._next[state]:
      return 0, 0
    state, matched = self._next[state][token], matched + 1
    return self._home(state, matched), matched

  def match(self, room: int = 0) -> tuple[int, int]:
    """The longest suffix that occurred before.

    Args:
      room: how many tokens should follow the earlier occurrence; a suffix is
        shortened until that many do, or until it would be empty.

    Returns:
      Its length and where it first ended; (0, -1) if there is none.
    """
    state, matched = self._home(self._state, self._matched), self._matched
    if not matched:
      return 0, -1
    while len(self.tokens) - 1 - self._end[state] < room:
      if self._link[state] <= 0:
        break
      state = self._link[state]
      matched = self._length[state]
    return matched, self._end[state]

  def after(self, end: int, count: int) -> list[int]:
    """What followed an earlier occurrence, up to the text's own end."""
    return self.tokens[end + 1:end + 1 + count]

  def _home(self, state, matched):
    """The state that holds the suffix, which a later clone may have become."""
    while state and self._length[self._link[state]] >= matched:
      state = self._link[state]
    return state

  def _extend(self, token):
    self.tokens.append(token)
    new = self._add({}, 0, self._length[self._last] + 1, len(self.tokens) - 1)
    state = self._last
    while state >= 0 and token not in self._next[state]:
      self._next[state][token] = new
      state = self._link[state]
    if state >= 0:
      target = self._next[state][token]
      if self._length[target] == self._length[state] + 1:
        self._link[new] = target
      else:
        self._link[new] = self._split(state, token, target)
    self._last = new

  def _split(self, state, token, target):
    """Gives the shorter strings of `target` a state of their own."""
    clone = self._add(dict(self._next[target]), self._link[target],
                      self._length[state] + 1, self._end[target])
    while state >= 0 and self._next[state].get(token) == target:
      self._next[state][token] = clone
      state = self._link[state]
    self._link[target] = clone
    return clone

  def _add(self, following, link, length, end):
    self._next.append(following)
    self._link.append(link)
    self._length.append(length)
    self._end.append(end)
    return len(self._link) - 1
