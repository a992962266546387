"""The anatomy network: one small pretrained segmenter of CT, CBCT, MR and sCT, whose features register and judge, too."""
