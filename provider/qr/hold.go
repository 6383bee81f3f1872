package qr

import (
	"context"
	"net/netip"
	"time"

	"github.com/qrgrant/qrgrant/storage"
)

// HoldLifetime is for how long a frame that Hold has accepted may be claimed with (protocol §6).
const HoldLifetime = 120 * time.Second

// Hold checks a frame that a web page brings before its person has signed in, which takes longer
// than frames live. It changes nothing: when Hold accepts, the caller seals the frame and the
// time for that browser alone, and within HoldLifetime the person may claim with
// ScanRequest.Held. What is not genuine counts as a try of the address's network. Its error is a
// *Problem.
func (s *Server) Hold(ctx context.Context, address netip.Addr, payload string) error {
	a, now, network := Approver{Address: address}, s.config.Now(), prefix(address)
	if wait := s.holds.take(network, now); wait > 0 {
		s.limited(ctx, a, "hold", network.String())
		return problemLimited(wait)
	}
	q, fresh, err := s.findFrame(ctx, a, payload)
	switch {
	case err != nil:
		return err
	case q.StateAt(now) != storage.QRPending && q.StateAt(now) != storage.QRScanned:
		return problemGone()
	case !fresh:
		return s.scanRefused(ctx, a, q, storage.QRScanStale, false)
	}
	s.holds.giveBack(network)
	return nil
}
