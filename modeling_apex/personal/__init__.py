"""A head of one listener's own: fitted to some 150 ratings or votes, carried by the model beside its other heads."""
