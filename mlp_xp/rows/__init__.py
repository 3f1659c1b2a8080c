"""How a row travels to the device: from its source, in an order, gathered, sent, handed out as steps."""
