package bolt

import (
	"context"
	"sync"

	"github.com/qrgrant/qrgrant/storage"
)

const shards = 64

// shardOf spreads ids over shards. References are random, every byte is as good.
func shardOf(id storage.QRID) int { return int(id[0]^id[len(id)-1]) % shards }

// locks are the writers' locks of QR sessions. A lock exists only while somebody holds it or
// waits for it, so that a pending session costs no memory for it.
type locks struct {
	shards [shards]struct {
		mu   sync.Mutex
		held map[storage.QRID]*lock
	}
}

// lock is a mutex that can be waited for together with a context.
type lock struct {
	slot  chan struct{}
	users int
}

// acquire waits for the session's lock or for ctx to end.
func (l *locks) acquire(ctx context.Context, id storage.QRID) error {
	k := l.join(id)
	select {
	case k.slot <- struct{}{}:
		return nil
	case <-ctx.Done():
		l.leave(id, k)
		return ctx.Err()
	}
}

// try takes the session's lock if it is free.
func (l *locks) try(id storage.QRID) bool {
	k := l.join(id)
	select {
	case k.slot <- struct{}{}:
		return true
	default:
		l.leave(id, k)
		return false
	}
}

func (l *locks) release(id storage.QRID) {
	shard := &l.shards[shardOf(id)]
	shard.mu.Lock()
	k := shard.held[id]
	shard.mu.Unlock()
	<-k.slot
	l.leave(id, k)
}

func (l *locks) join(id storage.QRID) *lock {
	shard := &l.shards[shardOf(id)]
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if shard.held == nil {
		shard.held = map[storage.QRID]*lock{}
	}
	k := shard.held[id]
	if k == nil {
		k = &lock{slot: make(chan struct{}, 1)}
		shard.held[id] = k
	}
	k.users++
	return k
}

func (l *locks) leave(id storage.QRID, k *lock) {
	shard := &l.shards[shardOf(id)]
	shard.mu.Lock()
	defer shard.mu.Unlock()
	k.users--
	if k.users == 0 {
		delete(shard.held, id)
	}
}
