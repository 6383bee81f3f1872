package bolt

import (
	"container/heap"
	"sync"
	"sync/atomic"
	"time"

	"github.com/qrgrant/qrgrant/storage"
)

// row is an audit row and the version of the record that its move led to.
type row struct {
	version uint64
	event   storage.AuditEvent
}

// memory holds the QR sessions that disk does not have, or has in an older version. It keeps
// them encoded: half a million opened sessions are to fit beside everything else.
type memory struct {
	max     int64
	records [shards]recordShard
	codes   [shards]codeShard
	expiry  expiry[storage.QRID]
	// count is the number of records and of places reserved for records.
	count atomic.Int64
	// unscanned counts the sessions that expired without a scan and were forgotten.
	unscanned atomic.Uint64
}

type recordShard struct {
	mu      sync.RWMutex
	records map[storage.QRID][]byte
	// rows are the audit rows of moves that are not on disk; few sessions have any.
	rows map[storage.QRID][]row
}

type codeShard struct {
	mu      sync.Mutex
	holders map[storage.UserCodeHash]storage.QRID
}

func newMemory(maxPending int) *memory {
	m := &memory{max: int64(maxPending)}
	for i := range m.records {
		m.records[i].records = map[storage.QRID][]byte{}
		m.records[i].rows = map[storage.QRID][]row{}
		m.codes[i].holders = map[storage.UserCodeHash]storage.QRID{}
	}
	m.expiry.ids = map[int64][]storage.QRID{}
	return m
}

// reserve takes one place for a record, or reports that there is none.
func (m *memory) reserve() bool {
	if m.count.Add(1) > m.max {
		m.count.Add(-1)
		return false
	}
	return true
}

// get returns the encoded record; callers only read it.
func (m *memory) get(id storage.QRID) ([]byte, bool) {
	shard := &m.records[shardOf(id)]
	shard.mu.RLock()
	defer shard.mu.RUnlock()
	raw, ok := shard.records[id]
	return raw, ok
}

// rows returns the audit rows of id that are not on disk.
func (m *memory) rows(id storage.QRID) []row {
	shard := &m.records[shardOf(id)]
	shard.mu.RLock()
	defer shard.mu.RUnlock()
	return shard.rows[id]
}

// put publishes a record that disk does not have yet. reserved says that its place was taken
// before; a record that comes back from disk takes one whatever the limit is.
func (m *memory) put(id storage.QRID, raw []byte, rows []row, due time.Time, reserved bool) {
	shard := &m.records[shardOf(id)]
	shard.mu.Lock()
	_, known := shard.records[id]
	shard.records[id] = raw
	if len(rows) > 0 {
		shard.rows[id] = rows
	}
	shard.mu.Unlock()
	if !known && !reserved {
		m.count.Add(1)
	}
	m.expiry.add(due, id)
}

// drop forgets a record, because disk has it or because nobody will ask for it again.
func (m *memory) drop(id storage.QRID, code storage.UserCodeHash) {
	shard := &m.records[shardOf(id)]
	shard.mu.Lock()
	_, known := shard.records[id]
	delete(shard.records, id)
	delete(shard.rows, id)
	shard.mu.Unlock()
	if known {
		m.count.Add(-1)
	}
	m.freeCode(code, id)
}

// ids lists every session in memory.
func (m *memory) ids() []storage.QRID {
	var ids []storage.QRID
	for i := range m.records {
		shard := &m.records[i]
		shard.mu.RLock()
		for id := range shard.records {
			ids = append(ids, id)
		}
		shard.mu.RUnlock()
	}
	return ids
}

// holder returns the session that holds a user code, if memory knows one.
func (m *memory) holder(code storage.UserCodeHash) (storage.QRID, bool) {
	shard := m.codeShard(code)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	id, ok := shard.holders[code]
	return id, ok
}

// takeCode gives the code to id unless held says that its holder still needs it. held runs
// under the lock of the code, so two openings cannot both find it free.
func (m *memory) takeCode(code storage.UserCodeHash, id storage.QRID, held func(holder storage.QRID, known bool) error) error {
	shard := m.codeShard(code)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	holder, known := shard.holders[code]
	if err := held(holder, known); err != nil {
		return err
	}
	shard.holders[code] = id
	return nil
}

func (m *memory) freeCode(code storage.UserCodeHash, id storage.QRID) {
	shard := m.codeShard(code)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if shard.holders[code] == id {
		delete(shard.holders, code)
	}
}

func (m *memory) codeShard(code storage.UserCodeHash) *codeShard {
	return &m.codes[int(code[0]^code[len(code)-1])%shards]
}

// expiry orders what is in memory by the second in which the sweep has to look at it, so that a
// sweep costs what is due. What left memory earlier keeps its entry.
type expiry[ID any] struct {
	mu      sync.Mutex
	ids     map[int64][]ID
	seconds secondHeap
}

func (e *expiry[ID]) add(due time.Time, id ID) {
	// The second after, so that it is really due when its second is.
	second := due.Unix() + 1
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.ids[second]) == 0 {
		heap.Push(&e.seconds, second)
	}
	e.ids[second] = append(e.ids[second], id)
}

// due takes out at most limit ids whose second has come.
func (e *expiry[ID]) due(now time.Time, limit int) []ID {
	e.mu.Lock()
	defer e.mu.Unlock()
	var due []ID
	for len(e.seconds) > 0 && e.seconds[0] <= now.Unix() && len(due) < limit {
		second := e.seconds[0]
		ids := e.ids[second]
		n := min(len(ids), limit-len(due))
		due = append(due, ids[len(ids)-n:]...)
		if n < len(ids) {
			e.ids[second] = ids[:len(ids)-n]
			continue
		}
		delete(e.ids, second)
		heap.Pop(&e.seconds)
	}
	return due
}

// any reports whether an id is due.
func (e *expiry[ID]) any(now time.Time) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.seconds) > 0 && e.seconds[0] <= now.Unix()
}

type secondHeap []int64

func (h secondHeap) Len() int           { return len(h) }
func (h secondHeap) Less(i, j int) bool { return h[i] < h[j] }
func (h secondHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }

// Push implements heap.Interface.
func (h *secondHeap) Push(second any) {
	if s, ok := second.(int64); ok {
		*h = append(*h, s)
	}
}

// Pop implements heap.Interface.
func (h *secondHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	*h = old[:len(old)-1]
	return last
}
