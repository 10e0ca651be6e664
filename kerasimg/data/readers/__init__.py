"""One reader for each kind of data; `kerasimg.data.sources` chooses among them."""

from kerasimg.data.items import Item as Item
from kerasimg.data.items import Reading as Reading
from kerasimg.data.readers.reader import Reader as Reader
