"""The planned mistakes with other libraries, measured now and then: they are not installed with the tests."""
