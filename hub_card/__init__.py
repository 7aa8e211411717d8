"""
Put models and datasets on the Hub: cards rendered from result files, and publishing that reads back what it sent.

`python -m hub_card.build_card` writes a card, `python -m hub_card.publish` uploads a folder as one commit. A card
holds no typed number: what a result file does not say is an error, never a gap.
"""
