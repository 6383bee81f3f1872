package provider_test

import (
	"context"

	"github.com/qrgrant/qrgrant/storage"
)

// openings keeps the address of the last QR session that was opened.
type openings struct {
	storage.Store
	address string
}

func (o *openings) CreateQRSession(ctx context.Context, s *storage.QRSession) error {
	o.address = s.Address
	return o.Store.CreateQRSession(ctx, s)
}
