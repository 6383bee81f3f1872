package provider

import (
	"cmp"
	"context"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/argon2"

	"github.com/qrgrant/qrgrant/storage"
)

// hashCostsEvery is how often the people's hashes are looked through. A change of their
// parameters shows in the time of a sign-in until then.
const hashCostsEvery = 10 * time.Minute

// hashCost is what makes a check take its time.
type hashCost struct {
	memory, time uint32
	threads      uint8
}

// hashCosts knows which parameters the hashes of the people have, and how many have which. A
// name that nobody has gets parameters by lot, and the same until the server key is rotated: as many
// of the unknown names are slow as of the known ones, so that the time of an answer tells nothing.
// (To check every name at the highest cost would tell those of the lower ones.)
type hashCosts struct {
	mu     sync.Mutex
	at     time.Time
	costs  []hashCost
	shares []float64
}

// refresh looks through the people when that was long ago.
func (h *hashCosts) refresh(ctx context.Context, users storage.Users, now time.Time) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.at.IsZero() && now.Sub(h.at) < hashCostsEvery {
		return nil
	}
	all, err := users.Users(ctx)
	if err != nil {
		return err
	}
	people := make(map[hashCost]int)
	total := 0
	for _, u := range all {
		if hash, err := parseArgonHash(u.PasswordHash); err == nil {
			people[hash.hashCost]++
			total++
		}
	}
	h.at, h.costs, h.shares = now, nil, nil
	for cost := range people {
		h.costs = append(h.costs, cost)
	}
	// In an order of their own, so that few names change when people come and go.
	slices.SortFunc(h.costs, func(a, b hashCost) int {
		return cmp.Or(cmp.Compare(a.memory, b.memory), cmp.Compare(a.time, b.time), cmp.Compare(a.threads, b.threads))
	})
	for _, cost := range h.costs {
		h.shares = append(h.shares, float64(people[cost])/float64(total))
	}
	return nil
}

// drawn is the cost of the lot, which is from 0 to 1.
func (h *hashCosts) drawn(lot float64) hashCost {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.costs) == 0 {
		return hashCost{argonMemory, argonTime, argonThreads}
	}
	for i, share := range h.shares {
		if lot -= share; lot < 0 {
			return h.costs[i]
		}
	}
	return h.costs[len(h.costs)-1]
}

// hashOf is what a try for the name is checked with: the person's hash, or one that no password
// has when there is no such person, or one without a password.
func (p *Provider) hashOf(ctx context.Context, user *storage.User, who account) (string, error) {
	// For every name alike: what only some names cost would tell them.
	if err := p.hashCosts.refresh(ctx, p.config.Store, p.config.Now()); err != nil {
		return "", unavailable(err)
	}
	keys := p.keys.serverKeys("")
	if len(keys) == 0 {
		return "", serverError(errors.New("provider: no server key"))
	}
	key, err := hkdf.Key(sha256.New, keys[0].Secret, nil, "provider|nobody", sha256.Size)
	if err != nil {
		return "", serverError(err)
	}
	mac := hmac.New(sha256.New, key)
	_, _ = mac.Write(who[:])
	nobodys := p.hashCosts.drawn(float64(binary.BigEndian.Uint64(mac.Sum(nil))) / math.MaxUint64).nobodysHash()
	if user == nil || CheckPasswordHash(user.PasswordHash) != nil {
		return nobodys, nil
	}
	return user.PasswordHash, nil
}

// nobodysHash is a hash that no password has.
func (c hashCost) nobodysHash() string {
	zeros := func(n int) string { return strings.Repeat("A", base64.RawStdEncoding.EncodedLen(n)) }
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, c.memory, c.time, c.threads, zeros(argonSaltLen), zeros(argonKeyLen))
}
