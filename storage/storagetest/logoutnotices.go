package storagetest

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/qrgrant/qrgrant/storage"
)

func noticeTests() map[string]func(*testing.T, Open) {
	return map[string]func(*testing.T, Open){
		"the end of a sign-in leaves notices to its clients":     noticesWritten,
		"notices are written with the end or not at all":         noticesInUnit,
		"notices are listed by client in the order they are due": noticesListed,
		"one of many takes a notice":                             noticesTaken,
		"notices outlive a restart and the sign-in's sweep":      noticesLast,
	}
}

// told stores clients that are to be told, and an ended sign-in that they took part in.
func told(t *testing.T, s storage.Store, sid string, at time.Duration, clients ...string) {
	t.Helper()
	wantErr(t, s.PutSession(t.Context(), signIn(sid, "ann", 0)), nil)
	for _, id := range clients {
		wantErr(t, s.PutClient(t.Context(), &storage.Client{ID: id, BackchannelLogoutURI: "https://" + id + ".example/out"}), nil)
		wantErr(t, s.AddSessionClient(t.Context(), sid, id), nil)
	}
	wantErr(t, s.EndSession(t.Context(), sid, after(at)), nil)
}

func notices(t *testing.T, s storage.Store, client string) []*storage.LogoutNotice {
	t.Helper()
	found, err := s.LogoutNotices(t.Context(), client, 100)
	wantErr(t, err, nil)
	return found
}

func noticeClients(t *testing.T, s storage.Store) []string {
	t.Helper()
	clients, err := s.LogoutNoticeClients(t.Context())
	wantErr(t, err, nil)
	return slices.Sorted(slices.Values(clients))
}

func noticesWritten(t *testing.T, open Open) {
	s, _ := open(t)
	wantEqual(t, noticeClients(t, s), []string{})
	for _, c := range []*storage.Client{
		{ID: "deaf"}, {ID: "off", Disabled: true, BackchannelLogoutURI: "https://off.example/"}, {ID: "stranger", BackchannelLogoutURI: "https://x.example/"},
	} {
		wantErr(t, s.PutClient(t.Context(), c), nil)
	}
	for _, id := range []string{"deaf", "off", "unknown"} {
		wantErr(t, s.AddSessionClient(t.Context(), "1", id), nil)
	}
	told(t, s, "1", time.Minute, "web", "shop")
	wantEqual(t, noticeClients(t, s), []string{"shop", "web"})
	want := &storage.LogoutNotice{SessionID: "1", ClientID: "web", Subject: "ann", EndedAt: after(time.Minute), DueAt: after(time.Minute)}
	wantEqual(t, notices(t, s, "web"), []*storage.LogoutNotice{want})
	// It ends once: what was delivered does not come back.
	wantErr(t, s.DeleteLogoutNotice(t.Context(), "1", "web"), nil)
	wantErr(t, s.DeleteLogoutNotice(t.Context(), "1", "web"), nil)
	wantErr(t, s.EndSession(t.Context(), "1", after(time.Hour)), nil)
	wantEqual(t, noticeClients(t, s), []string{"shop"})
}

func noticesInUnit(t *testing.T, open Open) {
	s, _ := open(t)
	told(t, s, "1", time.Minute, "web")
	for _, sid := range []string{"2", "3"} {
		wantErr(t, s.PutSession(t.Context(), signIn(sid, "ann", 0)), nil)
		wantErr(t, s.AddSessionClient(t.Context(), sid, "web"), nil)
	}
	wantErr(t, s.Tx(t.Context(), func(ctx context.Context) error {
		wantErr(t, s.EndSession(ctx, "2", after(time.Minute)), nil)
		wantErr(t, s.DeleteLogoutNotice(ctx, "1", "web"), nil)
		return errRollback
	}), errRollback)
	wantEqual(t, len(notices(t, s, "web")), 1)
	wantErr(t, s.Tx(t.Context(), func(ctx context.Context) error {
		wantErr(t, s.EndSession(ctx, "2", after(time.Minute)), nil)
		wantErr(t, s.EndSession(ctx, "3", after(time.Minute)), nil)
		return s.DeleteLogoutNotice(ctx, "1", "web")
	}), nil)
	var sids []string
	for _, n := range notices(t, s, "web") {
		sids = append(sids, n.SessionID)
	}
	wantEqual(t, sids, []string{"2", "3"})
}

func noticesListed(t *testing.T, open Open) {
	s, _ := open(t)
	// One id is the beginning of another.
	clients := []string{"a", "ab", "b", "zz"}
	for n := range 3 {
		told(t, s, fmt.Sprint("sid", n), time.Duration(3-n)*time.Minute, clients...)
	}
	wantEqual(t, noticeClients(t, s), []string{"a", "ab", "b", "zz"})
	later := func(n *storage.LogoutNotice) error {
		n.DueAt, n.Tries = after(time.Hour), n.Tries+1
		return nil
	}
	wantErr(t, s.UpdateLogoutNotice(t.Context(), "sid2", "a", later), nil)
	for client, want := range map[string][]string{"a": {"sid1", "sid0", "sid2"}, "ab": {"sid2", "sid1", "sid0"}, "zz": {"sid2", "sid1", "sid0"}, "c": nil, "": nil} {
		var sids []string
		for _, n := range notices(t, s, client) {
			wantEqual(t, n.ClientID, client)
			sids = append(sids, n.SessionID)
		}
		wantEqual(t, sids, want)
	}
	first, err := s.LogoutNotices(t.Context(), "a", 1)
	wantErr(t, err, nil)
	wantEqual(t, len(first), 1)
	moved := notices(t, s, "a")[2]
	wantEqual(t, []any{moved.Tries, moved.DueAt}, []any{1, after(time.Hour)})
	wantErr(t, s.UpdateLogoutNotice(t.Context(), "sid2", "a", func(n *storage.LogoutNotice) error {
		n.Tries = 99
		return errRollback
	}), errRollback)
	wantEqual(t, notices(t, s, "a")[2].Tries, 1)
}

func noticesTaken(t *testing.T, open Open) {
	s, _ := open(t)
	told(t, s, "1", time.Minute, "web")
	var won atomic.Int64
	race(20, func(int) {
		err := s.UpdateLogoutNotice(t.Context(), "1", "web", func(n *storage.LogoutNotice) error {
			if n.DueAt.After(after(time.Minute)) {
				return storage.ErrConflict
			}
			n.DueAt = after(time.Hour)
			n.Tries++
			return nil
		})
		if err == nil {
			won.Add(1)
		}
	})
	wantEqual(t, won.Load(), int64(1))
	wantEqual(t, notices(t, s, "web")[0].Tries, 1)
}

func noticesLast(t *testing.T, open Open) {
	s, reopen := open(t)
	told(t, s, "1", time.Minute, "web")
	s = reopen()
	sweep(t, s, after(48*time.Hour))
	_, err := s.Session(t.Context(), "1")
	wantErr(t, err, storage.ErrNotFound)
	wantEqual(t, len(notices(t, s, "web")), 1)
	wantErr(t, s.DeleteLogoutNotice(t.Context(), "1", "web"), nil)
	s = reopen()
	wantEqual(t, noticeClients(t, s), []string{})
}
