// Cache simulation of a trace of segments. Lines are numbered from 0 in one compact address space, so that all state per
// line is a plain array. Return value: 0, or a reason (see simulate.py).
#include <algorithm>
#include <cstdint>
#include <new>
#include <vector>

namespace {

enum Kind : uint8_t { READ, WRITE, HOLD, FREE };
constexpr uint32_t NONE = 0xffffffffu;

struct Trace {
  long count;
  const int64_t* address;
  const int64_t* bytes;
  const uint8_t* kind;
};

struct Geometry {  // of one cache, as simulate.py passes it
  int64_t lines, ways, line_bytes, write_back, write_allocate, fetch_on_write;
};

struct Counts {
  int64_t hits, misses, loaded, stored;  // the last two in bytes
};

// Calls f(line, bytes of the line that the segment covers) for every line that a segment meets.
template <class F>
inline void each_line(int64_t address, int64_t bytes, int64_t line_bytes, F f) {
  const int64_t end = address + bytes;
  for (int64_t at = address; at < end;) {
    const int64_t line = at / line_bytes, next = std::min((line + 1) * line_bytes, end);
    f(line, next - at);
    at = next;
  }
}

int64_t end_of(const Trace& t) {
  int64_t end = 1;
  for (long n = 0; n < t.count; ++n)
    if (t.address[n] >= 0) end = std::max(end, t.address[n] + t.bytes[n]);
  return end;
}
int64_t lines_in(int64_t bytes, int64_t line_bytes) { return (bytes + line_bytes - 1) / line_bytes; }

enum Flag : uint8_t { DIRTY = 1, SEEN = 2 };  // SEEN: the line has been in this cache before

// ---- least recently used: sets x ways, or one list of all lines (ways = 0) ----
class Lru {
 public:
  Lru(const Geometry& g, int64_t address_lines) : g(g), flags(address_lines) {
    if (g.ways) {
      sets = g.lines / g.ways;
      tags.assign(g.lines, NONE);
    } else {
      before.assign(address_lines, NONE);
      after.assign(address_lines, NONE);
      in.assign(address_lines, 0);
    }
  }
  // Moves a line to the front where it is there.
  bool touch(uint32_t line) { return g.ways ? touch_set(line) : touch_list(line); }
  // Puts an absent line in front; the line that had to go, or NONE.
  uint32_t insert(uint32_t line) { return g.ways ? insert_set(line) : insert_list(line); }
  // Its bytes are worth nothing any more.
  void drop(uint32_t line) {
    flags[line] = 0;
    if (g.ways) {
      uint32_t* set = &tags[line % sets * g.ways];
      uint32_t* found = std::find(set, set + g.ways, line);
      if (found == set + g.ways) return;
      std::copy(found + 1, set + g.ways, found);
      set[g.ways - 1] = NONE;
    } else if (in[line]) {
      unlink(line);
      in[line] = 0;
      --size;
    }
  }
  const Geometry g;
  std::vector<uint8_t> flags;

 private:
  bool touch_set(uint32_t line) {
    uint32_t* set = &tags[line % sets * g.ways];
    for (int64_t w = 0; w < g.ways; ++w)
      if (set[w] == line) {
        std::copy_backward(set, set + w, set + w + 1);
        set[0] = line;
        return true;
      }
    return false;
  }
  uint32_t insert_set(uint32_t line) {
    uint32_t* set = &tags[line % sets * g.ways];
    const uint32_t gone = set[g.ways - 1];
    std::copy_backward(set, set + g.ways - 1, set + g.ways);
    set[0] = line;
    return gone;
  }
  bool touch_list(uint32_t line) {
    if (!in[line]) return false;
    if (line != head) {
      unlink(line);
      push(line);
    }
    return true;
  }
  uint32_t insert_list(uint32_t line) {
    uint32_t gone = NONE;
    if (size == g.lines) {
      gone = tail;
      unlink(gone);
      in[gone] = 0;
      --size;
    }
    push(line);
    in[line] = 1;
    ++size;
    return gone;
  }
  void unlink(uint32_t line) {
    const uint32_t p = before[line], n = after[line];
    (p == NONE ? head : after[p]) = n;
    (n == NONE ? tail : before[n]) = p;
  }
  void push(uint32_t line) {
    before[line] = NONE;
    after[line] = head;
    (head == NONE ? tail : before[head]) = line;
    head = line;
  }
  int64_t sets = 0, size = 0;
  std::vector<uint32_t> tags, before, after;
  std::vector<uint8_t> in;
  uint32_t head = NONE, tail = NONE;
};

struct Chain {
  std::vector<Lru> cache;
  Counts* counts;

  void segment(size_t level, int64_t address, int64_t bytes, bool write) {
    if (level == cache.size()) return;
    each_line(address, bytes, cache[level].g.line_bytes,
              [&](int64_t line, int64_t part) { access(level, (uint32_t)line, address, part, write); });
  }
  void access(size_t level, uint32_t line, int64_t address, int64_t part, bool write) {
    Lru& c = cache[level];
    const int64_t whole = c.g.line_bytes, start = std::max<int64_t>(address, (int64_t)line * whole);
    const bool hit = c.touch(line), there = hit || !write || c.g.write_allocate;
    ++(hit ? counts[level].hits : counts[level].misses);
    if (there && !hit) allocate(level, line, part, write);
    if (write && there && c.g.write_back) c.flags[line] |= DIRTY;
    else if (write) pass(level, start, part, true);
  }
  void allocate(size_t level, uint32_t line, int64_t part, bool write) {
    Lru& c = cache[level];
    const int64_t whole = c.g.line_bytes;
    const uint32_t gone = c.insert(line);
    if (gone != NONE) evict(level, gone);
    const bool kept = part < whole && c.flags[line] & SEEN;  // the rest of the line is worth having
    if (!write || c.g.fetch_on_write || kept) pass(level, (int64_t)line * whole, whole, false);
    c.flags[line] |= SEEN;
  }
  void evict(size_t level, uint32_t line) {
    Lru& c = cache[level];
    if (c.flags[line] & DIRTY) pass(level, (int64_t)line * c.g.line_bytes, c.g.line_bytes, true);
    c.flags[line] &= (uint8_t)~DIRTY;
  }
  void pass(size_t level, int64_t address, int64_t bytes, bool write) {
    (write ? counts[level].stored : counts[level].loaded) += bytes;
    segment(level + 1, address, bytes, write);
  }
  void discard(int64_t address, int64_t bytes) {
    for (Lru& c : cache)
      each_line(address, bytes, c.g.line_bytes, [&](int64_t line, int64_t part) {
        if (part == c.g.line_bytes) c.drop((uint32_t)line);
      });
  }
  void flush() {
    for (size_t level = 0; level < cache.size(); ++level)
      for (size_t line = 0; line < cache[level].flags.size(); ++line) evict(level, (uint32_t)line);
  }
};

// ---- Belady's rule: what is needed again last goes first ----
class Times {  // a set of times with its largest member: a tree of 64-bit words
 public:
  explicit Times(int64_t size) {
    for (int64_t n = size; levels.empty() || n > 1; n = (n + 63) / 64) levels.emplace_back((n + 63) / 64, 0);
  }
  void add(uint64_t t) {
    for (auto& level : levels) {
      const uint64_t old = level[t / 64];
      level[t / 64] = old | 1ull << t % 64;
      if (old) return;
      t /= 64;
    }
  }
  void remove(uint64_t t) {
    for (auto& level : levels) {
      level[t / 64] &= ~(1ull << t % 64);
      if (level[t / 64]) return;
      t /= 64;
    }
  }
  int64_t largest() const {  // -1: none
    if (!levels.back()[0]) return -1;
    uint64_t t = 0;
    for (size_t n = levels.size(); n-- > 0;) t = t * 64 + 63 - __builtin_clzll(levels[n][t]);
    return (int64_t)t;
  }

 private:
  std::vector<std::vector<uint64_t>> levels;
};

constexpr uint32_t WROTE = 1u << 31, GONE = 1u << 30, PART = 1u << 29, LINE = PART - 1;

// One word per access: the line, and whether it writes, covers part of the line only, or gives the line up.
std::vector<uint32_t> expanded(const Trace& t, int64_t line_bytes) {
  int64_t total = 0;
  const auto lines = [&](auto f) {
    for (long n = 0; n < t.count; ++n) {
      if (t.kind[n] == HOLD || t.address[n] < 0) continue;
      const uint32_t what = t.kind[n] == WRITE ? WROTE : t.kind[n] == FREE ? GONE : 0;
      each_line(t.address[n], t.bytes[n], line_bytes, [&](int64_t line, int64_t part) {
        if (!(what == GONE && part < line_bytes)) f((uint32_t)line | what | (part < line_bytes ? PART : 0));
      });
    }
  };
  lines([&](uint32_t) { ++total; });
  std::vector<uint32_t> found;
  found.reserve(total);
  lines([&](uint32_t x) { found.push_back(x); });
  return found;
}

class Belady {
 public:
  Belady(const Trace& t, const Geometry& g, Counts* c)
      : g(g), counts(*c), word(expanded(t, g.line_bytes)), next(word.size()), soon(word.size() + 1),
        flags(lines_in(end_of(t), g.line_bytes)), when(flags.size(), NONE) {
    std::vector<uint32_t> last(flags.size(), NONE);
    for (size_t n = word.size(); n-- > 0;) {
      next[n] = last[word[n] & LINE];
      last[word[n] & LINE] = word[n] & GONE ? NONE : (uint32_t)n;
    }
  }
  void run() {
    for (size_t n = 0; n < word.size(); ++n) {
      const uint32_t line = word[n] & LINE;
      if (word[n] & GONE) {
        drop(line);
        flags[line] = 0;  // its bytes are worth nothing any more
        continue;
      }
      if (flags[line] & IN) {
        ++counts.hits;
        if (when[line] != NONE) soon.remove(when[line]);
      } else {
        miss(line, word[n]);
      }
      if (word[n] & WROTE) flags[line] |= DIRTY;
      keep(line, next[n]);
    }
    for (size_t line = 0; line < flags.size(); ++line) store((uint32_t)line);
  }

 private:
  enum : uint8_t { IN = 4 };
  void miss(uint32_t line, uint32_t what) {
    ++counts.misses;
    if (size == g.lines) evict();
    ++size;
    const bool kept = what & PART && flags[line] & SEEN;
    if (!(what & WROTE) || g.fetch_on_write || kept) counts.loaded += g.line_bytes;
    flags[line] |= IN | SEEN;
  }
  void keep(uint32_t line, uint32_t time) {
    when[line] = time;
    if (time == NONE) never.push_back(line);
    else soon.add(time);
  }
  void evict() {
    while (!never.empty()) {
      const uint32_t line = never.back();
      never.pop_back();
      if (flags[line] & IN && when[line] == NONE) return leave(line);
    }
    leave(word[soon.largest()] & LINE);
  }
  void leave(uint32_t line) {
    store(line);
    drop(line);
  }
  void store(uint32_t line) {
    if (flags[line] & DIRTY) counts.stored += g.line_bytes;
    flags[line] &= (uint8_t)~DIRTY;
  }
  void drop(uint32_t line) {
    if (!(flags[line] & IN)) return;
    if (when[line] != NONE) soon.remove(when[line]);
    flags[line] &= (uint8_t)~(IN | DIRTY);
    --size;
  }
  const Geometry g;
  Counts& counts;
  const std::vector<uint32_t> word;
  std::vector<uint32_t> next;
  Times soon;
  std::vector<uint8_t> flags;
  std::vector<uint32_t> when, never;
  int64_t size = 0;
};

}  // namespace

extern "C" int flashc_lru(long count, const int64_t* address, const int64_t* bytes, const uint8_t* kind, int levels,
                          const Geometry* geometry, Counts* counts) try {
  const Trace t{count, address, bytes, kind};
  Chain chain{{}, counts};
  int64_t end = end_of(t);
  for (int n = 0; n < levels; ++n) {
    const int64_t lines = lines_in(end, geometry[n].line_bytes);
    if (lines >= NONE) return 2;
    chain.cache.emplace_back(geometry[n], lines);
    end = lines * geometry[n].line_bytes;  // whole lines go to the next level
  }
  for (long n = 0; n < count; ++n) {
    if (kind[n] == HOLD || address[n] < 0) continue;
    if (kind[n] == FREE) chain.discard(address[n], bytes[n]);
    else chain.segment(0, address[n], bytes[n], kind[n] == WRITE);
  }
  chain.flush();
  return 0;
} catch (const std::bad_alloc&) {
  return 1;
}

extern "C" int flashc_belady(long count, const int64_t* address, const int64_t* bytes, const uint8_t* kind,
                             const Geometry* geometry, Counts* counts) try {
  const Trace t{count, address, bytes, kind};
  if (lines_in(end_of(t), geometry->line_bytes) > LINE) return 2;
  Belady(t, *geometry, counts).run();
  return 0;
} catch (const std::bad_alloc&) {
  return 1;
}
