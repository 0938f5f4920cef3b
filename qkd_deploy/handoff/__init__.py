"""A folder for whoever builds the application: the model, how images become its inputs, and a check for the device."""
