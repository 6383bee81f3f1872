package bolt

import (
	"slices"
	"sync"

	"github.com/qrgrant/qrgrant/storage"
)

// hub wakes those who wait for a QR session to change.
type hub struct {
	shards [shards]struct {
		mu      sync.Mutex
		waiters map[storage.QRID][]chan struct{}
	}
}

// watch registers a waiter. The channel holds one hint: a waiter reads the record after each,
// so a second one would tell it nothing.
func (h *hub) watch(id storage.QRID) (hint <-chan struct{}, stop func()) {
	waiter := make(chan struct{}, 1)
	shard := &h.shards[shardOf(id)]
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if shard.waiters == nil {
		shard.waiters = map[storage.QRID][]chan struct{}{}
	}
	shard.waiters[id] = append(shard.waiters[id], waiter)
	return waiter, func() { h.forget(id, waiter) }
}

func (h *hub) forget(id storage.QRID, waiter chan struct{}) {
	shard := &h.shards[shardOf(id)]
	shard.mu.Lock()
	defer shard.mu.Unlock()
	left := slices.DeleteFunc(shard.waiters[id], func(w chan struct{}) bool { return w == waiter })
	if len(left) == 0 {
		delete(shard.waiters, id)
		return
	}
	shard.waiters[id] = left
}

func (h *hub) wake(id storage.QRID) {
	shard := &h.shards[shardOf(id)]
	shard.mu.Lock()
	defer shard.mu.Unlock()
	for _, waiter := range shard.waiters[id] {
		select {
		case waiter <- struct{}{}:
		default:
		}
	}
}

// WatchQRSession implements storage.QRSessions.
func (s *Store) WatchQRSession(id storage.QRID) (hint <-chan struct{}, stop func()) {
	return s.hub.watch(id)
}
