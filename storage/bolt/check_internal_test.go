package bolt

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"

	"go.etcd.io/bbolt"

	"github.com/qrgrant/qrgrant/storage"
)

// Check walks the file both ways: every record must have exactly its index rows, and every
// index row its record.
func (s *Store) Check() error {
	return s.db.View(func(tx *bbolt.Tx) error {
		want := map[string]map[string]string{}
		for _, bucket := range []string{
			bucketQRCode, bucketTokenIndex, bucketUserLogin, bucketSessionSubject, bucketExpiry,
		} {
			want[bucket] = map[string]string{}
		}
		err := errors.Join(
			s.checkQRSessions(tx, want), s.checkTokens(tx, want), s.checkUsers(tx, want),
			s.checkSignIns(tx, want), s.checkAudit(tx),
		)
		for bucket, rows := range want {
			err = errors.Join(err, checkRows(tx, bucket, rows))
		}
		return err
	})
}

func checkRows(tx *bbolt.Tx, bucket string, want map[string]string) error {
	got := map[string]string{}
	err := in(tx, bucket).ForEach(func(key, value []byte) error {
		got[string(key)] = string(value)
		return nil
	})
	if err != nil || maps.Equal(got, want) {
		return err
	}
	for key := range got {
		if _, ok := want[key]; !ok {
			err = errors.Join(err, fmt.Errorf("%s: row %x has no record", bucket, key))
		}
	}
	for key, value := range want {
		if row, ok := got[key]; !ok || row != value {
			err = errors.Join(err, fmt.Errorf("%s: record without its row %x", bucket, key))
		}
	}
	return err
}

func (s *Store) checkQRSessions(tx *bbolt.Tx, want map[string]map[string]string) error {
	newest := map[string]*storage.QRSession{}
	return in(tx, bucketQR).ForEach(func(key, raw []byte) error {
		qs, err := s.storedSession(raw)
		if err != nil {
			return err
		}
		if _, version, due, _ := cutTrailer(raw); version != qs.Version || !bytes.Equal(due, appendTime(nil, qs.SweepAt())) {
			return fmt.Errorf("session %x ends in %d and %x", key, version, due)
		}
		if !bytes.Equal(key, qs.ID[:]) {
			return fmt.Errorf("session %x is stored as %x", qs.ID, key)
		}
		want[bucketExpiry][string(expiryKey(qs.SweepAt(), expiryQR, key))] = ""
		code := string(qs.UserCodeHash[:])
		if other := newest[code]; other == nil || qs.OpenedAt.After(other.OpenedAt) {
			newest[code] = qs
		}
		// Of sessions with one code the holder is one of the newest.
		holder := in(tx, bucketQRCode).Get([]byte(code))
		if same := newest[code]; !bytes.Equal(holder, same.ID[:]) && holder != nil {
			was, err := s.storedSession(in(tx, bucketQR).Get(holder))
			if err != nil || was.UserCodeHash != qs.UserCodeHash {
				return fmt.Errorf("user code of %x leads to %x: %w", key, holder, err)
			}
			if !was.OpenedAt.Before(same.OpenedAt) {
				newest[code] = was
			}
		}
		want[bucketQRCode][code] = string(newest[code].ID[:])
		return nil
	})
}

func (s *Store) checkTokens(tx *bbolt.Tx, want map[string]map[string]string) error {
	return in(tx, bucketToken).ForEach(func(key, raw []byte) error {
		t, err := decode[storage.Token](s.codec, raw)
		if err != nil {
			return err
		}
		if !bytes.Equal(key, tokenKey(t.Kind, t.Signature)) {
			return fmt.Errorf("token is stored as %x", key)
		}
		for _, row := range tokenIndexes(t, key) {
			want[bucketTokenIndex][string(row)] = ""
		}
		if owner := ownerIndex(t); owner != nil {
			want[bucketTokenIndex][string(owner)] = ""
		}
		want[bucketExpiry][string(expiryKey(keepUntil(t), expiryToken, key))] = ""
		return nil
	})
}

func (s *Store) checkUsers(tx *bbolt.Tx, want map[string]map[string]string) error {
	return in(tx, bucketUser).ForEach(func(key, raw []byte) error {
		u, err := decode[storage.User](s.codec, raw)
		if err != nil {
			return err
		}
		if u.Login != "" {
			want[bucketUserLogin][string(loginKey(u.Login))] = string(key)
		}
		return nil
	})
}

func (s *Store) checkSignIns(tx *bbolt.Tx, want map[string]map[string]string) error {
	return in(tx, bucketSession).ForEach(func(key, raw []byte) error {
		session, err := decode[storage.Session](s.codec, raw)
		if err != nil {
			return err
		}
		want[bucketSessionSubject][string(indexKey(session.Subject, key))] = ""
		want[bucketExpiry][string(expiryKey(sessionDue(session), expirySession, key))] = ""
		return nil
	})
}

// checkAudit looks for a session that was opened, claimed, approved or redeemed twice.
func (s *Store) checkAudit(tx *bbolt.Tx) error {
	once := []string{storage.EventQROpened, storage.EventQRScanned, storage.EventQRApproved, storage.EventQRRedeemed, storage.EventQRExpired}
	seen := map[string]bool{}
	return in(tx, bucketAudit).ForEach(func(_, raw []byte) error {
		e, err := decode[storage.AuditEvent](s.codec, raw)
		if err != nil || !slices.Contains(once, e.Type) || e.QRSession == "" {
			return err
		}
		if seen[e.Type+e.QRSession] {
			return fmt.Errorf("two rows %s of %s", e.Type, e.QRSession)
		}
		seen[e.Type+e.QRSession] = true
		return nil
	})
}
