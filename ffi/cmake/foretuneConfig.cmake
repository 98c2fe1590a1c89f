# find_package(foretune) gives foretune::foretune, the shared library, and foretune::static, the static one with the system
# libraries it needs. With FORETUNE_USE_STATIC set, or where there is no shared library, foretune::foretune is the static one.
#
# It lies in PREFIX/share/foretune/cmake.
get_filename_component(_foretune_prefix "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)

find_path(FORETUNE_INCLUDE_DIR foretune.h PATHS "${_foretune_prefix}/include" NO_DEFAULT_PATH)
file(GLOB _foretune_libdirs "${_foretune_prefix}/lib" "${_foretune_prefix}/lib64" "${_foretune_prefix}/lib/*-linux-gnu*")
find_library(FORETUNE_SHARED_LIBRARY NAMES foretune PATHS ${_foretune_libdirs} NO_DEFAULT_PATH)
find_library(FORETUNE_STATIC_LIBRARY NAMES libforetune.a foretune.lib PATHS ${_foretune_libdirs} NO_DEFAULT_PATH)
mark_as_advanced(FORETUNE_INCLUDE_DIR FORETUNE_SHARED_LIBRARY FORETUNE_STATIC_LIBRARY)

if(FORETUNE_SHARED_LIBRARY STREQUAL FORETUNE_STATIC_LIBRARY)
  set(_foretune_shared FALSE)
else()
  set(_foretune_shared ${FORETUNE_SHARED_LIBRARY})
endif()

include(CMakeFindDependencyMacro)
if(FORETUNE_STATIC_LIBRARY AND NOT TARGET foretune::static)
  set(THREADS_PREFER_PTHREAD_FLAG TRUE)
  find_dependency(Threads)
  add_library(foretune::static STATIC IMPORTED)
  set_target_properties(foretune::static PROPERTIES
    IMPORTED_LOCATION "${FORETUNE_STATIC_LIBRARY}"
    INTERFACE_INCLUDE_DIRECTORIES "${FORETUNE_INCLUDE_DIR}"
    INTERFACE_LINK_LIBRARIES "Threads::Threads;${CMAKE_DL_LIBS}")
  if(UNIX AND NOT APPLE)
    set_property(TARGET foretune::static APPEND PROPERTY INTERFACE_LINK_LIBRARIES m gcc_s)
  elseif(WIN32)
    set_property(TARGET foretune::static APPEND PROPERTY INTERFACE_LINK_LIBRARIES ws2_32 userenv ntdll bcrypt)
  endif()
endif()

if(NOT TARGET foretune::foretune)
  if(_foretune_shared AND NOT FORETUNE_USE_STATIC)
    add_library(foretune::foretune SHARED IMPORTED)
    set_target_properties(foretune::foretune PROPERTIES
      IMPORTED_LOCATION "${FORETUNE_SHARED_LIBRARY}"
      INTERFACE_INCLUDE_DIRECTORIES "${FORETUNE_INCLUDE_DIR}")
  elseif(TARGET foretune::static)
    add_library(foretune::foretune INTERFACE IMPORTED)
    set_target_properties(foretune::foretune PROPERTIES INTERFACE_LINK_LIBRARIES foretune::static)
  endif()
endif()

include(FindPackageHandleStandardArgs)
if(_foretune_shared OR FORETUNE_STATIC_LIBRARY)
  set(_foretune_found TRUE)
endif()
find_package_handle_standard_args(foretune REQUIRED_VARS FORETUNE_INCLUDE_DIR _foretune_found)
