package bolt

import (
	"context"
	"slices"
	"sync"

	"go.etcd.io/bbolt"

	"github.com/qrgrant/qrgrant/storage"
)

// maxCached is how many records of a kind a cache holds.
const maxCached = 10_000

// cache keeps decoded records that are read far more often than they are written. Whoever
// writes such a record forgets it in the transaction (see forgetOnCommit), so a write that
// was acknowledged is never hidden.
type cache[T any] struct {
	// clone returns a copy that shares nothing the caller could change; nil says that the
	// record has something that cannot be copied, and it is not kept.
	clone func(*T) *T

	mu      sync.RWMutex
	records map[string]*T
	// forgotten counts the writes, also of records that were not kept: a reader whose
	// transaction is older than a write must not bring the old record back.
	forgotten uint64
	closed    bool
}

func newCache[T any](clone func(*T) *T) *cache[T] {
	return &cache[T]{clone: clone, records: map[string]*T{}}
}

// get returns a copy of the record, or nil and what keep has to be given.
func (c *cache[T]) get(key string) (record *T, forgotten uint64) {
	c.mu.RLock()
	kept, forgotten := c.records[key], c.forgotten
	c.mu.RUnlock()
	if kept == nil {
		return nil, forgotten
	}
	// Kept records never change, so the copy needs no lock.
	return c.clone(kept), forgotten
}

// keep remembers a record that was read after get, unless something was written since.
func (c *cache[T]) keep(key string, record *T, forgotten uint64) {
	copied := c.clone(record)
	if copied == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.forgotten != forgotten {
		return
	}
	if len(c.records) >= maxCached {
		// Any one will do: what is read often comes back.
		for other := range c.records {
			delete(c.records, other)
			break
		}
	}
	c.records[key] = copied
}

func (c *cache[T]) forget(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forgotten++
	delete(c.records, key)
}

// forgetOnCommit forgets the record when tx has been committed, before its units are
// acknowledged. A transaction that is dropped has changed nothing.
func (c *cache[T]) forgetOnCommit(tx *bbolt.Tx, key []byte) {
	name := string(key)
	tx.OnCommit(func() { c.forget(name) })
}

// close forgets everything for good: a closed store answers nothing from memory.
func (c *cache[T]) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	clear(c.records)
}

// readCached is read for a bucket with a cache. Missing records are not remembered.
func readCached[T any](ctx context.Context, s *Store, c *cache[T], bucket, key string) (*T, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	record, forgotten := c.get(key)
	if record != nil {
		return record, nil
	}
	record, err := read[T](ctx, s, bucket, []byte(key))
	if err != nil {
		return nil, err
	}
	c.keep(key, record, forgotten)
	return record, nil
}

// cloneClient cuts the lists of text out of one array, whose parts cannot grow into each other.
func cloneClient(c *storage.Client) *storage.Client {
	copied := *c
	copied.SecretHashes = slices.Clone(c.SecretHashes)
	copied.JWKS = slices.Clone(c.JWKS)
	if c.DefaultMaxAge != nil {
		age := *c.DefaultMaxAge
		copied.DefaultMaxAge = &age
	}
	lists := [...]*[]string{
		&copied.RedirectURIs, &copied.GrantTypes, &copied.Scopes, &copied.SharedAudiences,
		&copied.QR.AllowedScopes, &copied.PostLogoutRedirectURIs,
		&copied.Resources, &copied.Serves, &copied.RequestURIs, &copied.ResponseTypes, &copied.Contacts, &copied.DefaultACRValues,
	}
	n := 0
	for _, list := range lists {
		n += len(*list)
	}
	texts := make([]string, 0, n)
	for _, list := range lists {
		from := len(texts)
		texts = append(texts, *list...)
		if *list != nil {
			*list = texts[from:len(texts):len(texts)]
		}
	}
	return &copied
}

func cloneSession(s *storage.Session) *storage.Session {
	copied := *s
	copied.AMR, copied.Withheld = slices.Clone(s.AMR), slices.Clone(s.Withheld)
	return &copied
}

func cloneUser(u *storage.User) *storage.User {
	copied := *u
	if u.Claims == nil {
		return &copied
	}
	claims, ok := cloneClaim(u.Claims)
	if !ok {
		return nil
	}
	copied.Claims, _ = claims.(map[string]any)
	return &copied
}

// cloneClaim copies a claim of a type that JSON has too; it reports false for any other, such
// as a big number.
func cloneClaim(claim any) (copied any, ok bool) {
	switch claim := claim.(type) {
	case nil, bool, string, int64, float64:
		return claim, true
	case []any:
		list := make([]any, len(claim))
		for i, element := range claim {
			if list[i], ok = cloneClaim(element); !ok {
				return nil, false
			}
		}
		return list, true
	case map[string]any:
		object := make(map[string]any, len(claim))
		for name, member := range claim {
			if object[name], ok = cloneClaim(member); !ok {
				return nil, false
			}
		}
		return object, true
	default:
		return nil, false
	}
}
